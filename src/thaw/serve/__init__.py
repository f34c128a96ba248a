"""A local page and a JSON endpoint to look at a trained model, and at a run while it goes on."""
