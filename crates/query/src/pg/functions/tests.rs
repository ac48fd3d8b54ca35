//! Functions by example.
