"""One file per operator: shape for tracing (fake), gradient (autograd.Function), batching rule, public function."""
