"""The endpoint beside a vendor that is called directly."""
