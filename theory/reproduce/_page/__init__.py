"""Results as one page of HTML that needs nothing beside it: `gflow report`."""
