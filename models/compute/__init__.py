"""Where models compute: devices, ranks, and the codes that are passed between them."""
