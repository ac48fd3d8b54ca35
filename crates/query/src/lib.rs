//! Atoll's query layer: binder, router, localization, optimizer rules, DML, EXPLAIN. The only crate that knows DataFusion.
