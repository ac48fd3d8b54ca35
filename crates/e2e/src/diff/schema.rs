//! Random tables, and where their rows lie.

use super::Statement;
use super::write::literal;
use crate::rng::Rng;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    Int,
    Big,
    Text,
    Numeric,
    Float,
    Bool,
    Date,
    Timestamp,
}

impl Ty {
    const ALL: [Ty; 8] = [Ty::Int, Ty::Big, Ty::Text, Ty::Numeric, Ty::Float, Ty::Bool, Ty::Date, Ty::Timestamp];

    fn sql(self) -> &'static str {
        match self {
            Ty::Int => "int",
            Ty::Big => "bigint",
            Ty::Text => "text",
            Ty::Numeric => "numeric(8,2)",
            Ty::Float => "float8",
            Ty::Bool => "boolean",
            Ty::Date => "date",
            Ty::Timestamp => "timestamp",
        }
    }

    /// Whether values can be added up.
    pub fn is_number(self) -> bool {
        matches!(self, Ty::Int | Ty::Big | Ty::Numeric | Ty::Float)
    }
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Ty,
    pub not_null: bool,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    /// The first ones are the key's.
    pub columns: Vec<Column>,
    /// How many columns the primary key has; 0: there is none.
    pub key: usize,
    fragmentation: Fragmentation,
    replicated: bool,
    /// Rows lie where their parent's row lies, which therefore has to be there: a foreign key.
    pub anchored: bool,
    indexes: Vec<(bool, usize)>,
}

#[derive(Clone, Debug)]
enum Fragmentation {
    None,
    Hash {
        fragments: i64,
    },
    List {
        column: usize,
    },
    Range {
        column: usize,
    },
    /// With the first table, by the second column.
    Colocated,
}

#[derive(Clone, Debug)]
pub struct Schema {
    pub tables: Vec<Table>,
}

impl Schema {
    pub fn random(rng: &mut Rng) -> Self {
        let count = rng.between(1, super::TABLES.len() as i64);
        let mut tables: Vec<Table> = (0..count).map(|n| Table::random(rng, n)).collect();
        // Where the first table's rows lie follows from its key, or from the column by whose name the others refer to it, or from
        // neither: then the rows of the others need their parents.
        let by_value = match tables[0].fragmentation {
            Fragmentation::List { column } | Fragmentation::Range { column } => column < 2,
            _ => true,
        };
        for table in tables.iter_mut().filter(|t| matches!(t.fragmentation, Fragmentation::Colocated)) {
            table.anchored = !by_value;
            table.columns[1].not_null |= table.anchored;
        }
        Schema { tables }
    }

    pub fn create(&self, rng: &mut Rng) -> Vec<Statement> {
        let mut statements = Vec::new();
        for table in &self.tables {
            let (plain, atoll) = table.create(rng);
            statements.push(Statement { atoll: Some(atoll), ..Statement::plain(plain) });
            for (n, (unique, column)) in table.indexes.iter().enumerate() {
                let (unique, name) = (if *unique { "UNIQUE " } else { "" }, &table.name);
                statements.push(Statement::plain(format!(
                    "CREATE {unique}INDEX {name}_i{n} ON {name} ({})",
                    table.columns[*column].name
                )));
            }
        }
        statements
    }
}

impl Table {
    /// Whether a unique index is on this column.
    pub fn is_unique(&self, column: &str) -> bool {
        self.indexes.iter().any(|(unique, at)| *unique && self.columns[*at].name == column)
    }

    fn random(rng: &mut Rng, n: i64) -> Self {
        let mut columns = vec![
            Column { name: "id".to_string(), ty: Ty::Int, not_null: true },
            Column { name: "ref".to_string(), ty: Ty::Int, not_null: false },
        ];
        // The first table is what others are co-located with: keyed by `id` alone.
        let key = if n == 0 { 1 } else { *rng.pick(&[0, 1, 1, 1, 2]) };
        if key == 2 {
            columns[1].not_null = true;
        }
        for c in 0..rng.between(1, 5) {
            let ty = *rng.pick(&Ty::ALL);
            columns.push(Column { name: format!("c{c}"), ty, not_null: rng.chance(20) });
        }
        let splittable: Vec<usize> = (0..columns.len())
            .filter(|c| matches!(columns[*c].ty, Ty::Int | Ty::Big | Ty::Text | Ty::Date | Ty::Bool))
            .collect();
        let column = *rng.pick(&splittable);
        let fragmentation = match rng.below(10) {
            0 => Fragmentation::None,
            1..=3 => Fragmentation::List { column },
            4..=5 if columns[column].ty != Ty::Bool => Fragmentation::Range { column },
            6..=7 if n > 0 => Fragmentation::Colocated,
            _ if key > 0 => Fragmentation::Hash { fragments: rng.between(2, 7) },
            _ => Fragmentation::None,
        };
        let replicated = matches!(fragmentation, Fragmentation::None) && rng.chance(60);
        let mut indexes = Vec::new();
        for c in 0..columns.len() {
            if rng.chance(15) {
                indexes.push((rng.chance(15), c));
            }
        }
        Table { name: format!("t{n}"), columns, key, fragmentation, replicated, anchored: false, indexes }
    }

    /// The statement for PostgreSQL, and those for Atoll.
    fn create(&self, rng: &mut Rng) -> (String, Vec<String>) {
        let mut items: Vec<String> = (self.columns.iter())
            .map(|c| format!("{} {}{}", c.name, c.ty.sql(), if c.not_null { " NOT NULL" } else { "" }))
            .collect();
        if self.key > 0 {
            let key: Vec<&str> = self.columns[..self.key].iter().map(|c| c.name.as_str()).collect();
            items.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        let (name, plain) = (&self.name, format!("CREATE TABLE {} ({})", self.name, items.join(", ")));
        let original = if self.anchored {
            format!("CREATE TABLE {name} ({}, FOREIGN KEY (ref) REFERENCES t0 (id))", items.join(", "))
        } else {
            plain.clone()
        };
        let column = |c: usize| &self.columns[c];
        let atoll = match self.fragmentation {
            Fragmentation::None if self.replicated => {
                vec![format!("{plain} WITH (sites = 's1, s2, s3', replication = 'all')")]
            }
            Fragmentation::None => vec![plain.clone()],
            Fragmentation::Hash { fragments } => {
                vec![format!("{plain} PARTITION BY HASH (id) WITH (fragments = {fragments}, sites = 's1, s2, s3')")]
            }
            Fragmentation::Colocated => {
                vec![format!("{plain} WITH (colocate_with = 't0', colocate_on = 'ref')")]
            }
            Fragmentation::List { column: c } => {
                let mut statements = vec![format!("{plain} PARTITION BY LIST ({})", column(c).name)];
                let mut values: Vec<String> = (0..20).map(|_| literal(rng, column(c).ty)).collect();
                values.sort();
                values.dedup();
                let half = values.len().div_ceil(2);
                for (n, part) in (1..).zip([&values[..half], &values[half..]]) {
                    // What neither of them takes is for the default fragment.
                    let part: Vec<String> = part.iter().take(4).cloned().collect();
                    if !part.is_empty() {
                        let part = part.join(", ");
                        statements.push(format!(
                            "CREATE TABLE {name}_p{n} PARTITION OF {name} FOR VALUES IN ({part}) TABLESPACE s{n}"
                        ));
                    }
                }
                statements.push(format!("CREATE TABLE {name}_p3 PARTITION OF {name} DEFAULT TABLESPACE s3"));
                statements
            }
            Fragmentation::Range { column: c } => {
                let (low, high) = match column(c).ty {
                    Ty::Text => ("'b'", "'e'"),
                    Ty::Date => ("'2024-01-05'", "'2024-01-12'"),
                    _ => ("7", "14"),
                };
                vec![
                    format!("{plain} PARTITION BY RANGE ({})", column(c).name),
                    format!(
                        "CREATE TABLE {name}_p1 PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO ({low}) TABLESPACE s1"
                    ),
                    format!(
                        "CREATE TABLE {name}_p2 PARTITION OF {name} FOR VALUES FROM ({low}) TO ({high}) TABLESPACE s2"
                    ),
                    format!("CREATE TABLE {name}_p3 PARTITION OF {name} DEFAULT TABLESPACE s3"),
                ]
            }
        };
        (original, atoll)
    }
}
