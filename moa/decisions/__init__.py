"""Scored queries → what may be bought for each, and who is asked."""
