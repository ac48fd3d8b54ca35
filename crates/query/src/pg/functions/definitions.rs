//! Catalog objects as PostgreSQL shows them: object ids, and the SQL that would make them.
//!
//! Invariant: object ids are stable while the object lives, and different for different objects: relations have their own,
//! what has none (indexes, constraints) gets one from its table's id and its number within the table.

use atoll_model::{
    BOOTSTRAP_ROLE, Catalog, ColumnId, ForeignKey, FragmentBounds, Fragmentation, Index, NamedObject, RangeBound,
    ReferentialAction, RelationId, SqlType, Table, Value,
};

/// `pg_catalog`
pub const PG_CATALOG: i64 = 11;
/// `public`
pub const PUBLIC: i64 = 2200;
/// `information_schema`
pub const INFORMATION_SCHEMA: i64 = 13_000;
/// `atoll`
pub const ATOLL: i64 = 13_001;

/// The bootstrap superuser, who owns what nobody else does.
pub const OWNER: i64 = 10;

/// The object id of an index of a table; `None`: its primary key.
pub fn index_oid(table: &Table, index: Option<&Index>) -> i64 {
    0x4000_0000 + i64::from(table.id.0) * 1024 + index.map_or(0, |i| i64::from(i.id.0))
}

/// The object id of a constraint, by its place in [`constraints`].
pub fn constraint_oid(table: &Table, at: usize) -> i64 {
    0x8000_0000 + i64::from(table.id.0) * 1024 + at as i64
}

/// The object id of a column's default.
pub fn default_oid(table: &Table, attnum: i16) -> i64 {
    0xC000_0000 + i64::from(table.id.0) * 2048 + i64::from(attnum)
}

/// A column's default as `pg_get_expr` prints it: constants that need one have their type beside them.
pub fn default_expression(sql: &str, ty: &SqlType) -> String {
    use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value as Literal};
    let named = match ty {
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "bpchar".into(),
        SqlType::Numeric(_) => "numeric".into(),
        SqlType::Array(item) => format!("{}[]", format_type(i64::from(item.pg_oid()), -1)),
        ty => ty.without_second_digits().to_string(),
    };
    match crate::pg::parse::parse_expression(sql) {
        Ok(Expr::Value(v)) if crate::pg::parse::faithful::as_text(&v.value).is_some() => format!("{v}::{named}"),
        Ok(Expr::Value(v)) if matches!(v.value, Literal::Null) => format!("NULL::{named}"),
        Ok(Expr::UnaryOp { op: UnaryOperator::Minus, expr }) if matches!(expr.as_ref(), Expr::Value(_)) => {
            let integer = expr.to_string().parse::<i32>().is_ok();
            format!("'-{expr}'::{}", if integer { "integer".into() } else { named })
        }
        _ => sql.to_owned(),
    }
}

/// The object id of a role.
pub fn role_oid(catalog: &Catalog, name: &str) -> i64 {
    if name == BOOTSTRAP_ROLE {
        OWNER
    } else {
        12_000 + catalog.roles.keys().position(|n| n == name).unwrap_or_default() as i64
    }
}

/// A constraint of a table.
pub enum Constraint<'t> {
    /// CHECK: name and expression.
    Check(&'t str, &'t str),
    /// PRIMARY KEY
    Primary(&'t str),
    /// UNIQUE
    Unique(&'t Index),
    /// FOREIGN KEY
    Foreign(&'t ForeignKey),
}

/// A table's constraints, in a fixed order.
pub fn constraints(table: &Table) -> Vec<Constraint<'_>> {
    let mut all: Vec<Constraint<'_>> = vec![];
    all.extend(table.primary_key.as_deref().map(Constraint::Primary));
    all.extend(table.indexes.iter().filter(|i| i.constraint).map(Constraint::Unique));
    all.extend(table.checks.iter().map(|c| Constraint::Check(&c.name, &c.expression)));
    all.extend(table.foreign_keys.iter().map(Constraint::Foreign));
    all
}

/// PostgreSQL's reserved words, those that name functions or types alone included: as names they need quotes.
#[rustfmt::skip]
pub const RESERVED: [&str; 100] = [
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary", "both", "case", "cast",
    "check", "collate", "collation", "column", "concurrently", "constraint", "create", "cross", "current_catalog", "current_date",
    "current_role", "current_schema", "current_time", "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct",
    "do", "else", "end", "except", "false", "fetch", "for", "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike",
    "in", "initially", "inner", "intersect", "into", "is", "isnull", "join", "lateral", "leading", "left", "like", "limit", "localtime",
    "localtimestamp", "natural", "not", "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps", "placing",
    "primary", "references", "returning", "right", "select", "session_user", "similar", "some", "symmetric", "table", "tablesample",
    "then", "to", "trailing", "true", "union", "unique", "user", "using", "variadic", "verbose", "when", "where", "window", "with",
];

/// A name, quoted where SQL needs it.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && RESERVED.binary_search(&name).is_err();
    if plain { name.into() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The last part of a possibly qualified, possibly quoted name.
pub fn last_name(text: &str) -> String {
    let mut part = String::new();
    let mut quoted = false;
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => part.clear(),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    part
}

fn list(table: &Table, ids: &[ColumnId]) -> String {
    let names: Vec<String> =
        ids.iter().filter_map(|id| table.position(*id)).map(|p| quote_ident(&table.columns[p].name)).collect();
    names.join(", ")
}

/// Positions of columns as `pg_attribute.attnum` has them.
pub fn attnums(table: &Table, ids: &[ColumnId]) -> Vec<Value> {
    ids.iter().filter_map(|id| attnum(table, *id)).map(Value::Int2).collect()
}

/// A visible column's `attnum`.
pub fn attnum(table: &Table, id: ColumnId) -> Option<i16> {
    table.columns.iter().filter(|c| !c.hidden).position(|c| c.id == id).and_then(|p| i16::try_from(p + 1).ok())
}

/// `pg_get_constraintdef`; a pretty one has fewer parentheses.
pub fn constraint_definition(catalog: &Catalog, table: &Table, constraint: &Constraint<'_>, pretty: bool) -> String {
    match constraint {
        Constraint::Check(_, expression) if pretty => format!("CHECK ({expression})"),
        Constraint::Check(_, expression) => format!("CHECK (({expression}))"),
        Constraint::Primary(_) => format!("PRIMARY KEY ({})", list(table, &table.key)),
        Constraint::Unique(index) => format!("UNIQUE ({})", list(table, &index.columns)),
        Constraint::Foreign(key) => {
            let mut text = format!("FOREIGN KEY ({})", list(table, &key.columns));
            if let Some(parent) = catalog.tables.get(&key.parent) {
                text += &format!(" REFERENCES {}({})", quote_ident(&parent.name), list(parent, &key.parent_columns));
            }
            for (event, action) in [("UPDATE", key.on_update), ("DELETE", key.on_delete)] {
                match action {
                    ReferentialAction::NoAction => {}
                    ReferentialAction::Cascade => text += &format!(" ON {event} CASCADE"),
                    ReferentialAction::SetNull => text += &format!(" ON {event} SET NULL"),
                }
            }
            text
        }
    }
}

/// `pg_get_indexdef`; `None`: of the primary key. A pretty one leaves the schema out.
pub fn index_definition(table: &Table, index: Option<&Index>, pretty: bool) -> String {
    let (name, columns, unique) = match index {
        Some(index) => (index.name.as_str(), list(table, &index.columns), index.unique),
        None => (table.primary_key.as_deref().unwrap_or_default(), list(table, &table.key), true),
    };
    let unique = if unique { "UNIQUE " } else { "" };
    let schema = if pretty { "" } else { "public." };
    format!(
        "CREATE {unique}INDEX {} ON {schema}{} USING btree ({columns})",
        quote_ident(name),
        quote_ident(&table.name)
    )
}

/// `pg_get_partkeydef`
pub fn partition_key(table: &Table) -> Option<String> {
    Some(match &table.fragmentation {
        Fragmentation::List(c) => format!("LIST ({})", list(table, &[*c])),
        Fragmentation::Range(cs) => format!("RANGE ({})", list(table, cs)),
        Fragmentation::Hash(cs) => format!("HASH ({})", list(table, cs)),
        Fragmentation::None | Fragmentation::Derived { .. } => return None,
    })
}

/// A fragment's bounds, as `FOR VALUES …`.
pub fn bounds(catalog: &Catalog, table: &Table, bounds: &FragmentBounds) -> String {
    let types: Vec<SqlType> = table.fragmentation_positions().iter().map(|p| table.columns[*p].ty.clone()).collect();
    let value = |v: &Value, at: usize| match v {
        Value::Null => "NULL".to_string(),
        v => {
            let ty = types.get(at).cloned().unwrap_or(SqlType::Text);
            let text = atoll_model::text::to_text(&ty, v);
            if v.as_i64().is_some() || matches!(v, Value::Numeric(..)) {
                text
            } else {
                format!("'{}'", text.replace('\'', "''"))
            }
        }
    };
    let range = |bounds: &[RangeBound]| {
        let parts: Vec<String> = bounds
            .iter()
            .enumerate()
            .map(|(at, b)| match b {
                RangeBound::Min => "MINVALUE".into(),
                RangeBound::Max => "MAXVALUE".into(),
                RangeBound::Value(v) => value(v, at),
            })
            .collect();
        parts.join(", ")
    };
    match bounds {
        FragmentBounds::All => "all rows".into(),
        FragmentBounds::List(values) => {
            let parts: Vec<String> = values.iter().map(|v| value(v, 0)).collect();
            format!("FOR VALUES IN ({})", parts.join(", "))
        }
        FragmentBounds::Range { from, to } => format!("FOR VALUES FROM ({}) TO ({})", range(from), range(to)),
        FragmentBounds::Hash { modulus, remainder } => {
            format!("FOR VALUES WITH (modulus {modulus}, remainder {remainder})")
        }
        FragmentBounds::Derived(id) => {
            let parent = catalog.fragment_by_id(*id);
            format!("as {}", parent.map_or("its parent", |(table, at)| table.fragments[at].name.as_str()))
        }
        FragmentBounds::Default => "DEFAULT".into(),
    }
}

/// Whether a table's fragments were declared one by one.
pub fn is_declared(catalog: &Catalog, table: &Table) -> bool {
    matches!(table.fragmentation, Fragmentation::List(_) | Fragmentation::Range(_))
        || table.fragments.iter().any(|f| matches!(catalog.names.get(&f.name), Some(NamedObject::Fragment(_))))
}

/// The name of the relation (table, view, sequence, fragment, index) with that object id.
pub fn relation_of(catalog: &Catalog, oid: i64) -> Option<String> {
    if let Ok(id) = u32::try_from(oid) {
        let id = RelationId(id);
        if let Some(name) = catalog
            .tables
            .get(&id)
            .map(|t| &t.name)
            .or_else(|| catalog.views.get(&id).map(|v| &v.name))
            .or_else(|| catalog.sequences.get(&id).map(|s| &s.name))
        {
            return Some(name.clone());
        }
        if let Some(fragment) = catalog.tables.values().flat_map(|t| &t.fragments).find(|f| f.id.0 == id.0) {
            return Some(fragment.name.clone());
        }
    }
    index_of(catalog, oid)
        .map(|(table, index)| index.map_or(table.primary_key.clone().unwrap_or_default(), |i| i.name.clone()))
}

/// The index with that object id: its table, and itself unless it is the primary key.
pub fn index_of(catalog: &Catalog, oid: i64) -> Option<(&Table, Option<&Index>)> {
    let rest = oid.checked_sub(0x4000_0000).filter(|r| (0..0x4000_0000).contains(r))?;
    let table = catalog.tables.get(&RelationId(u32::try_from(rest / 1024).ok()?))?;
    let number = rest % 1024;
    if number == 0 {
        Some((table, None))
    } else {
        table.indexes.iter().find(|i| i64::from(i.id.0) == number).map(|i| (&**table, Some(i)))
    }
}

/// The object id of the relation of that name.
pub fn oid_of(catalog: &Catalog, name: &str) -> Option<i64> {
    Some(match catalog.names.get(name)? {
        NamedObject::Table(id) | NamedObject::View(id) | NamedObject::Sequence(id) => i64::from(id.0),
        NamedObject::Fragment(_) => {
            let (table, at) = catalog.fragment(name)?;
            i64::from(table.fragments[at].id.0)
        }
        NamedObject::Index(id) => {
            let table = catalog.tables.get(id)?;
            index_oid(table, table.indexes.iter().find(|i| i.name == name))
        }
    })
}

/// `pg_type.typmod` of a column's type.
pub fn typmod(ty: &SqlType) -> i32 {
    match ty {
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => i32::try_from(*n).map_or(-1, |n| n + 4),
        SqlType::Numeric(Some((p, s))) => ((i32::from(*p) << 16) | i32::from(*s)) + 4,
        SqlType::Time(Some(p)) | SqlType::Timestamp(Some(p)) | SqlType::TimestampTz(Some(p)) => i32::from(*p),
        SqlType::Array(item) => typmod(item),
        _ => -1,
    }
}

/// `format_type`
pub fn format_type(oid: i64, typmod: i64) -> String {
    let Some(ty) = u32::try_from(oid).ok().filter(|o| !matches!(o, 705 | 19 | 2205)).and_then(SqlType::from_pg_oid)
    else {
        return match oid {
            19 => "name",
            18 => "\"char\"",
            26 => "oid",
            22 => "int2vector",
            30 => "oidvector",
            705 => "unknown",
            2205 => "regclass",
            2249 => "record",
            2278 => "void",
            _ => "???",
        }
        .into();
    };
    let digits = u8::try_from(typmod).ok();
    let with = |ty: SqlType| match ty {
        SqlType::Time(_) => SqlType::Time(digits),
        SqlType::Timestamp(_) => SqlType::Timestamp(digits),
        SqlType::TimestampTz(_) => SqlType::TimestampTz(digits),
        SqlType::Varchar(_) if typmod > 4 => SqlType::Varchar(u32::try_from(typmod - 4).ok()),
        SqlType::Char(_) if typmod > 4 => SqlType::Char(u32::try_from(typmod - 4).unwrap_or(1)),
        SqlType::Numeric(_) if typmod > 4 => {
            let m = typmod - 4;
            SqlType::Numeric(Some((u8::try_from(m >> 16).unwrap_or(38), i8::try_from(m & 0xff).unwrap_or(0))))
        }
        ty => ty,
    };
    match ty {
        SqlType::Array(item) => SqlType::Array(Box::new(with(*item))).to_string(),
        SqlType::Char(_) if typmod <= 4 => "character".into(),
        ty => with(ty).to_string(),
    }
}
