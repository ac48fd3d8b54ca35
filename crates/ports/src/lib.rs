//! Atoll's traits at the edges, with a conformance suite for each.
