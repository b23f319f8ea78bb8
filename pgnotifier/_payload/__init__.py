"""What `pgnotifier.payload` is made of."""
