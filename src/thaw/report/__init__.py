"""The report: figures drawn from finished numbers, and the page that holds them."""
