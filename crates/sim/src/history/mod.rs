//! Checks of what clients saw, told as it happens: each speaks up at the first thing that must not be.

pub mod timestamps;
