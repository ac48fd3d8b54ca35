//! Copies that are being built: of fragments that move, and of sites that were down.

use super::table::{Definition, maybe, t, table as define, time};
use crate::rows::number;
use atoll_ports::cluster::MoveInfo;

pub(super) fn table() -> Definition {
    define(
        "moves",
        "table_name:t fragment:t source:t target:t state:t rows_done:l rows_estimated:l rows_written:l started_at:z last_error:t",
        |s| {
            let row = |x: MoveInfo| {
                vec![
                    t(x.table),
                    t(x.fragment),
                    maybe(x.source),
                    t(x.target),
                    t(x.state),
                    number(x.rows),
                    number(x.rows_estimated),
                    number(x.rows_written),
                    time(x.began),
                    maybe(x.last_error),
                ]
            };
            s.cluster.moves().into_iter().map(row).collect()
        },
    )
}
