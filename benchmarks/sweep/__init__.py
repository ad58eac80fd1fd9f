"""Sweeps of settings: is work saved by ending trials whose cause is proven, and is no healthy trial lost?"""
