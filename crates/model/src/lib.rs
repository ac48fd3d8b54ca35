//! Atoll's nouns: ids, types, values, rows, schemas, the catalog as data, fragmentation, error codes.
