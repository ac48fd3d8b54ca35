//! The entrances before a database that does nothing: what remains is what the entrances themselves cost.
//!
//! ```text
//! cargo run --release -p atoll-front --example fake_server -- 127.0.0.1:5439
//! echo 'SELECT abalance FROM pgbench_accounts WHERE aid = :aid;' > one.sql
//! pgbench -h 127.0.0.1 -p 5439 -U atoll -n -M prepared -c 8 -T 10 -D aid=1 -f one.sql atoll
//! ```

#[path = "../tests/fake/mod.rs"]
mod fake;

use atoll_front::{FrontConfig, StatusSource, serve};
use std::sync::Arc;

struct NoStatus;

#[async_trait::async_trait]
impl StatusSource for NoStatus {
    async fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5439".to_string());
    let config =
        FrontConfig { sql_addr: address.parse()?, http_addr: "127.0.0.1:0".parse()?, ..FrontConfig::default() };
    let front = serve(config, Arc::new(fake::FakeDatabase(fake::Fake::new())), Arc::new(NoStatus)).await?;
    tracing::info!("serving on {}", front.sql_addr());
    tokio::signal::ctrl_c().await?;
    front.shutdown().await;
    Ok(())
}
