"""The gateway from outside, over HTTP, with the sandbox as its providers."""
