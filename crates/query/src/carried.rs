//! Values that travel to functions with DataFusion's options.
//!
//! Invariant: such a value is no option: it cannot be set by text, and is not listed.

/// Lets a type travel under a prefix, which nothing else may have.
macro_rules! carried {
    ($carried:ty, $prefix:literal) => {
        impl datafusion::common::config::ExtensionOptions for $carried {
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
            fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
                self
            }
            fn cloned(&self) -> Box<dyn datafusion::common::config::ExtensionOptions> {
                Box::new(self.clone())
            }
            fn set(&mut self, key: &str, _: &str) -> datafusion::common::Result<()> {
                datafusion::common::config_err!("{key} is not an option")
            }
            fn entries(&self) -> Vec<datafusion::common::config::ConfigEntry> {
                vec![]
            }
        }

        impl datafusion::common::config::ConfigExtension for $carried {
            const PREFIX: &'static str = $prefix;
        }
    };
}

pub(crate) use carried;
