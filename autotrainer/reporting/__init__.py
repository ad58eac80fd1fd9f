"""What people read: reports, plans and their lines of code, results, files."""
