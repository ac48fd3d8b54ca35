//! ADD PRIMARY KEY: rows are stored in the order of their key, so the table is made anew with the key, filled from the old one and
//! takes its name and place, all in one transaction. (`pgbench -i` declares its keys in this way.)

use super::create::column_names;
use super::{Binder, Bound, Step, quoted};
use atoll_model::{
    CatalogCommand, Error, ErrorKind, FragmentBounds, Fragmentation, NewColumn, NewFragmentation, NewIndex, NewTable,
    Result, Table, TableChange, Value,
};

impl Binder<'_> {
    pub(super) fn add_primary_key(
        &self,
        table: &Table,
        name: Option<String>,
        columns: Vec<String>,
        bound: &mut Bound,
    ) -> Result<()> {
        if table.primary_key.is_some() {
            return Err(Error::new(
                ErrorKind::InvalidTableDefinition,
                format!("multiple primary keys for table \"{}\" are not allowed", table.name),
            ));
        }
        for column in &columns {
            if !table.columns.iter().any(|c| c.name == *column && !c.hidden) {
                return Err(Error::new(
                    ErrorKind::UndefinedColumn,
                    format!("column \"{column}\" of relation \"{}\" does not exist", table.name),
                ));
            }
        }
        let refuse = |why: &str| {
            Error::unsupported(format!("a primary key cannot be added to table \"{}\": {why}", table.name))
                .hint("Create a table with the key and INSERT … SELECT from this one.")
        };
        if table.columns.iter().any(|c| c.generated.is_some()) {
            return Err(refuse("it owns sequences"));
        }
        if self.catalog.views.values().any(|v| v.depends_on.contains(&table.id)) {
            return Err(refuse("views depend on it"));
        }
        let child = |t: &Table| {
            t.foreign_keys.iter().any(|k| k.parent == table.id)
                || matches!(&t.fragmentation, Fragmentation::Derived { parent, .. } if *parent == table.id)
        };
        if !table.foreign_keys.is_empty() || self.catalog.tables.values().any(|t| child(t)) {
            return Err(refuse("it takes part in foreign keys or co-location"));
        }
        let mut sites: Vec<String> = vec![];
        for id in table.fragments.iter().flat_map(|f| &f.replicas) {
            if let Some(site) = self.catalog.sites.get(id)
                && !sites.contains(&site.name)
            {
                sites.push(site.name.clone());
            }
        }
        let implicit_hash =
            table.fragments.iter().all(|f| matches!(f.bounds, FragmentBounds::Hash { .. } | FragmentBounds::All));
        let (fragmentation, fragments) = match &table.fragmentation {
            Fragmentation::None if table.fragments.iter().all(|f| f.replicas.len() > 1) => {
                (NewFragmentation::Copies, None)
            }
            Fragmentation::None => (NewFragmentation::Default, Some(1)),
            Fragmentation::Hash(by) if implicit_hash => {
                let by = column_names(table, by);
                let count = u32::try_from(table.fragments.len()).unwrap_or(u32::MAX);
                // Hashed by the hidden key means that no choice was made.
                if by.iter().any(|c| c == atoll_model::ROW_ID_COLUMN) {
                    (NewFragmentation::Default, Some(count))
                } else {
                    (NewFragmentation::Hash(by), Some(count))
                }
            }
            _ => return Err(refuse("its fragments are declared one by one")),
        };
        let temporary = format!("{}_with_key", table.name);
        if self.catalog.names.contains_key(&temporary) {
            return Err(refuse(&format!("the name \"{temporary}\" is taken")));
        }
        let visible: Vec<_> = table.columns.iter().filter(|c| !c.hidden).collect();
        let made = NewTable {
            name: temporary.clone(),
            columns: visible
                .iter()
                .map(|c| NewColumn {
                    name: c.name.clone(),
                    ty: c.ty.clone(),
                    not_null: c.not_null || columns.contains(&c.name),
                    default: c.default.clone(),
                    missing: Value::Null,
                    identity: None,
                })
                .collect(),
            primary_key: Some((Some(name.unwrap_or_else(|| format!("{}_pkey", table.name))), columns.clone())),
            uniques: vec![],
            checks: table.checks.iter().map(|c| (c.name.clone(), c.expression.clone())).collect(),
            foreign_keys: vec![],
            fragmentation,
            sites,
            fragments,
            replicas: table.fragments.first().map_or(1, |f| u32::try_from(f.replicas.len()).unwrap_or(1)),
            replication: table.replication,
            read_balance: table.read_balance,
            on_replica_down: table.on_replica_down,
            adopted: None,
        };
        for column in &columns {
            bound.steps.push(Step::Check {
                sql: format!("SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1", quoted(&table.name), quoted(column)),
                error: Error::new(
                    ErrorKind::NotNullViolation,
                    format!("column \"{column}\" of relation \"{}\" contains null values", table.name),
                )
                .table(table.name.clone()),
            });
        }
        let list: Vec<String> = visible.iter().map(|c| quoted(&c.name)).collect();
        let list = list.join(", ");
        bound.apply(CatalogCommand::CreateTable(Box::new(made)));
        bound.apply(CatalogCommand::TakeAccess { relation: temporary.clone(), from: table.name.clone() });
        bound.steps.push(Step::Run(format!(
            "INSERT INTO {} ({list}) SELECT {list} FROM {}",
            quoted(&temporary),
            quoted(&table.name)
        )));
        bound.apply(CatalogCommand::DropTable { name: table.name.clone(), cascade: false });
        bound.apply(CatalogCommand::AlterTable { table: temporary, change: TableChange::Rename(table.name.clone()) });
        for index in &table.indexes {
            bound.apply(CatalogCommand::CreateIndex {
                table: table.name.clone(),
                index: NewIndex {
                    name: Some(index.name.clone()),
                    columns: column_names(table, &index.columns),
                    unique: index.unique,
                    constraint: index.constraint,
                },
            });
        }
        Ok(())
    }
}
