"""What several repairs share: heads, layers, rates, steps, targets."""
