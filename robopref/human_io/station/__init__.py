"""The web station: a page on which an operator watches and drives, served from this package alone."""
