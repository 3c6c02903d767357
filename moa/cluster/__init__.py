"""What all jobs and endpoints of one Ray cluster share."""
