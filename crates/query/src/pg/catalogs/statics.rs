//! pg_catalog's tables about everything but relations: types, schemas, and what there is none of.

use super::relations::{collation, length};
use super::table::{Definition, b, empty, maybe, o, t, table, texts};
use crate::pg::functions::definitions as def;
use crate::privileges::show;
use atoll_model::{Row, Securable, SqlType, Value};

const TYPE: &str = "oid:o typname:t typnamespace:o typowner:o typlen:s typbyval:b typtype:t typcategory:t typispreferred:b \
    typisdefined:b typdelim:t typrelid:o typsubscript:t typelem:o typarray:o typinput:t typoutput:t typreceive:t typsend:t typmodin:t \
    typmodout:t typanalyze:t typalign:t typstorage:t typnotnull:b typbasetype:o typtypmod:i typndims:i typcollation:o typdefaultbin:t \
    typdefault:t typacl:T";

pub(super) fn tables() -> Vec<Definition> {
    let mut made = vec![
        table("pg_namespace", "oid:o nspname:t nspowner:o nspacl:T", |s| {
            [
                ("pg_catalog", def::PG_CATALOG),
                ("public", def::PUBLIC),
                ("information_schema", def::INFORMATION_SCHEMA),
                ("atoll", def::ATOLL),
            ]
            .into_iter()
            .map(|(name, oid)| {
                let list = show::list(s.catalog, Securable::Schema).filter(|_| oid == def::PUBLIC);
                vec![o(oid), t(name), o(def::OWNER), list.map_or(Value::Null, texts)]
            })
            .collect()
        }),
        table("pg_type", TYPE, |_| types()),
        table(
            "pg_database",
            "oid:o datname:t datdba:o encoding:i datlocprovider:t datistemplate:b datallowconn:b datconnlimit:i datfrozenxid:o \
             datminmxid:o dattablespace:o datcollate:t datctype:t daticulocale:t datcollversion:t datacl:T",
            |_| {
                vec![vec![
                    o(1),
                    t("atoll"),
                    o(def::OWNER),
                    Value::Int4(6),
                    t("c"),
                    b(false),
                    b(true),
                    Value::Int4(-1),
                    o(0),
                    o(1),
                    o(1663),
                    t("C"),
                    t("C"),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                ]]
            },
        ),
        table("pg_am", "oid:o amname:t amhandler:t amtype:t", |_| {
            vec![vec![o(2), t("heap"), t("-"), t("t")], vec![o(403), t("btree"), t("bthandler"), t("i")]]
        }),
        table(
            "pg_collation",
            "oid:o collname:t collnamespace:o collowner:o collprovider:t collisdeterministic:b collencoding:i collcollate:t collctype:t \
             colliculocale:t collversion:t",
            |_| {
                [(100, "default", "d"), (950, "C", "c"), (951, "POSIX", "c")]
                    .into_iter()
                    .map(|(oid, name, provider)| {
                        vec![
                            o(oid),
                            t(name),
                            o(def::PG_CATALOG),
                            o(def::OWNER),
                            t(provider),
                            b(true),
                            Value::Int4(-1),
                            t("C"),
                            t("C"),
                            Value::Null,
                            Value::Null,
                        ]
                    })
                    .collect()
            },
        ),
        // Sites are where `TABLESPACE` puts rows.
        table("pg_tablespace", "oid:o spcname:t spcowner:o spcacl:T spcoptions:T", |s| {
            let site = |oid: i64, name: &str| vec![o(oid), t(name), o(def::OWNER), Value::Null, Value::Null];
            std::iter::once(site(1663, "pg_default"))
                .chain(s.catalog.sites.values().map(|x| site(i64::from(x.id.0), &x.name)))
                .collect()
        }),
    ];
    made.push(table(
        "pg_settings",
        "name:t setting:t unit:t category:t short_desc:t extra_desc:t context:t vartype:t source:t min_val:t max_val:t enumvals:T \
         boot_val:t reset_val:t sourcefile:t sourceline:i pending_restart:b",
        |s| {
            let fixed = [
                ("max_index_keys", "32"),
                ("max_connections", "1000"),
                ("server_version", "15.0"),
                ("block_size", "8192"),
                ("max_function_args", "100"),
            ];
            let mut all: Vec<(&str, &str)> = s.settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
            for (name, value) in fixed {
                if !all.iter().any(|(n, _)| *n == name) {
                    all.push((name, value));
                }
            }
            all.sort_unstable();
            all.into_iter()
                .map(|(name, value)| {
                    let mut row = vec![t(name), t(value), Value::Null, t("Atoll"), t(""), Value::Null];
                    let kind = if matches!(value, "on" | "off") { "bool" } else { "string" };
                    row.extend([t("user"), t(kind), t("session"), Value::Null, Value::Null, Value::Null]);
                    row.extend([t(value), t(value), Value::Null, Value::Null, b(false)]);
                    row
                })
                .collect()
        },
    ));
    made.push(table("atoll_keywords", "word:t catcode:t barelabel:b catdesc:t baredesc:t", |_| {
        def::RESERVED
            .iter()
            .map(|word| vec![t(*word), t("R"), b(true), t("reserved"), t("can be bare label")])
            .collect()
    }));
    made.extend(NONE.iter().map(|(name, columns)| empty(name, columns)));
    made
}

fn types() -> Vec<Row> {
    let scalars = [
        ("bool", SqlType::Bool, "B"),
        ("bytea", SqlType::Bytea, "U"),
        ("int8", SqlType::Int8, "N"),
        ("int2", SqlType::Int2, "N"),
        ("int4", SqlType::Int4, "N"),
        ("text", SqlType::Text, "S"),
        ("json", SqlType::Json, "U"),
        ("float4", SqlType::Float4, "N"),
        ("float8", SqlType::Float8, "N"),
        ("bpchar", SqlType::Char(1), "S"),
        ("varchar", SqlType::Varchar(None), "S"),
        ("date", SqlType::Date, "D"),
        ("time", SqlType::Time(None), "D"),
        ("timestamp", SqlType::Timestamp(None), "D"),
        ("timestamptz", SqlType::TimestampTz(None), "D"),
        ("interval", SqlType::Interval, "T"),
        ("numeric", SqlType::Numeric(None), "N"),
        ("uuid", SqlType::Uuid, "U"),
        ("jsonb", SqlType::Jsonb, "U"),
    ];
    let row = |oid: i64, name: String, len: i16, category: &str, elem: i64, array: i64, collation: i64| -> Row {
        let function =
            |suffix: &str| if elem == 0 { t(format!("{name}{suffix}")) } else { t(format!("array_{suffix}")) };
        vec![
            o(oid),
            t(name.clone()),
            o(def::PG_CATALOG),
            o(def::OWNER),
            Value::Int2(len),
            b((1..=8).contains(&len)),
            t("b"),
            t(category),
            b(false),
            b(true),
            t(","),
            o(0),
            t("-"),
            o(elem),
            o(array),
            function("in"),
            function("out"),
            function("recv"),
            function("send"),
            t("-"),
            t("-"),
            t("-"),
            t("i"),
            t(if len < 0 { "x" } else { "p" }),
            b(false),
            o(0),
            Value::Int4(-1),
            Value::Int4(0),
            o(collation),
            maybe(None),
            maybe(None),
            Value::Null,
        ]
    };
    let mut rows: Vec<Row> = vec![
        row(18, "char".into(), 1, "Z", 0, 1002, 0),
        row(19, "name".into(), 64, "S", 0, 1003, 950),
        row(26, "oid".into(), 4, "N", 0, 1028, 0),
        row(705, "unknown".into(), -2, "X", 0, 0, 0),
        row(2205, "regclass".into(), 4, "N", 0, 2210, 0),
        row(2206, "regtype".into(), 4, "N", 0, 2211, 0),
        row(2278, "void".into(), 4, "P", 0, 0, 0),
    ];
    for (name, ty, category) in scalars {
        let array = SqlType::Array(Box::new(ty.clone()));
        let (oid, array_oid) = (i64::from(ty.pg_oid()), i64::from(array.pg_oid()));
        rows.push(row(oid, name.into(), length(&ty), category, 0, array_oid, collation(&ty)));
        rows.push(row(array_oid, format!("_{name}"), -1, "A", oid, 0, collation(&ty)));
    }
    rows
}

/// What there is none of here.
const NONE: &[(&str, &str)] = &[
    (
        "pg_proc",
        "oid:o proname:t pronamespace:o proowner:o prolang:o procost:f prorows:f provariadic:o prokind:t prosecdef:b \
      proleakproof:b proisstrict:b proretset:b provolatile:t proparallel:t pronargs:s pronargdefaults:s prorettype:o proargtypes:O \
      proallargtypes:O proargmodes:T proargnames:T proargdefaults:t prosrc:t probin:t proconfig:T proacl:T",
    ),
    ("pg_aggregate", "aggfnoid:o aggkind:t aggnumdirectargs:s"),
    (
        "pg_language",
        "oid:o lanname:t lanowner:o lanispl:b lanpltrusted:b lanplcallfoid:o laninline:o lanvalidator:o lanacl:T",
    ),
    ("pg_enum", "oid:o enumtypid:o enumsortorder:f enumlabel:t"),
    ("pg_range", "rngtypid:o rngsubtype:o rngmultitypid:o rngcollation:o rngsubopc:o rngcanonical:t rngsubdiff:t"),
    (
        "pg_trigger",
        "oid:o tgrelid:o tgparentid:o tgname:t tgfoid:o tgtype:s tgenabled:t tgisinternal:b tgconstrrelid:o \
      tgconstrindid:o tgconstraint:o tgdeferrable:b tginitdeferred:b tgnargs:s tgattr:S tgargs:t tgqual:t tgoldtable:t tgnewtable:t",
    ),
    ("pg_policy", "oid:o polname:t polrelid:o polcmd:t polpermissive:b polroles:O polqual:t polwithcheck:t"),
    (
        "pg_extension",
        "oid:o extname:t extowner:o extnamespace:o extrelocatable:b extversion:t extconfig:O extcondition:T",
    ),
    (
        "pg_publication",
        "oid:o pubname:t pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    ("pg_publication_rel", "oid:o prpubid:o prrelid:o prqual:t prattrs:S"),
    ("pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    ("pg_publication_tables", "pubname:t schemaname:t tablename:t attnames:T rowfilter:t"),
    (
        "pg_subscription",
        "oid:o subdbid:o subskiplsn:t subname:t subowner:o subenabled:b subbinary:b substream:b subtwophasestate:t subdisableonerr:b subconninfo:t \
      subslotname:t subsynccommit:t subpublications:T",
    ),
    (
        "pg_statistic_ext",
        "oid:o stxrelid:o stxname:t stxnamespace:o stxowner:o stxstattarget:i stxkeys:S stxkind:T stxexprs:t",
    ),
    ("pg_foreign_table", "ftrelid:o ftserver:o ftoptions:T"),
    ("pg_foreign_server", "oid:o srvname:t srvowner:o srvfdw:o srvtype:t srvversion:t srvacl:T srvoptions:T"),
    ("pg_foreign_data_wrapper", "oid:o fdwname:t fdwowner:o fdwhandler:o fdwvalidator:o fdwacl:T fdwoptions:T"),
    ("pg_db_role_setting", "setdatabase:o setrole:o setconfig:T"),
    ("pg_shdepend", "dbid:o classid:o objid:o objsubid:i refclassid:o refobjid:o deptype:t"),
    ("pg_seclabel", "objoid:o classoid:o objsubid:i provider:t label:t"),
    (
        "pg_locks",
        "locktype:t database:o relation:o page:i tuple:s virtualxid:t transactionid:o classid:o objid:o objsubid:s \
      virtualtransaction:t pid:i mode:t granted:b fastpath:b waitstart:z",
    ),
    ("pg_matviews", "schemaname:t matviewname:t matviewowner:t tablespace:t hasindexes:b ispopulated:b definition:t"),
    (
        "pg_opclass",
        "oid:o opcmethod:o opcname:t opcnamespace:o opcowner:o opcfamily:o opcintype:o opcdefault:b opckeytype:o",
    ),
    (
        "pg_operator",
        "oid:o oprname:t oprnamespace:o oprowner:o oprkind:t oprcanmerge:b oprcanhash:b oprleft:o oprright:o oprresult:o \
      oprcom:o oprnegate:o oprcode:t oprrest:t oprjoin:t",
    ),
    ("pg_cast", "oid:o castsource:o casttarget:o castfunc:o castcontext:t castmethod:t"),
    ("pg_event_trigger", "oid:o evtname:t evtevent:t evtowner:o evtfoid:o evtenabled:t evttags:T"),
    ("pg_default_acl", "oid:o defaclrole:o defaclnamespace:o defaclobjtype:t defaclacl:T"),
    ("pg_rules", "schemaname:t tablename:t rulename:t definition:t"),
    ("pg_prepared_xacts", "transaction:o gid:t prepared:z owner:t database:t"),
    ("pg_available_extensions", "name:t default_version:t installed_version:t comment:t"),
    ("pg_timezone_names", "name:t abbrev:t utc_offset:t is_dst:b"),
    ("pg_replication_slots", "slot_name:t plugin:t slot_type:t datoid:o database:t temporary:b active:b active_pid:i"),
    ("pg_stat_replication", "pid:i usesysid:o usename:t application_name:t client_addr:t state:t"),
    ("pg_stat_ssl", "pid:i ssl:b version:t cipher:t bits:i client_dn:t client_serial:t issuer_dn:t"),
    ("pg_stat_gssapi", "pid:i gss_authenticated:b principal:t encrypted:b"),
    ("pg_ts_dict", "oid:o dictname:t dictnamespace:o dictowner:o dicttemplate:o dictinitoption:t"),
    ("pg_ts_parser", "oid:o prsname:t prsnamespace:o prsstart:o prstoken:o prsend:o prsheadline:o prslextype:o"),
    ("pg_ts_template", "oid:o tmplname:t tmplnamespace:o tmplinit:o tmpllexize:o"),
    ("pg_ts_config_map", "mapcfg:o maptokentype:i mapseqno:i mapdict:o"),
    ("pg_opfamily", "oid:o opfmethod:o opfname:t opfnamespace:o opfowner:o"),
    (
        "pg_amop",
        "oid:o amopfamily:o amoplefttype:o amoprighttype:o amopstrategy:s amoppurpose:t amopopr:o amopmethod:o amopsortfamily:o",
    ),
    ("pg_amproc", "oid:o amprocfamily:o amproclefttype:o amprocrighttype:o amprocnum:s amproc:o"),
    (
        "pg_conversion",
        "oid:o conname:t connamespace:o conowner:o conforencoding:i contoencoding:i conproc:o condefault:b",
    ),
    ("pg_user_mapping", "oid:o umuser:o umserver:o umoptions:T"),
    ("pg_user_mappings", "umid:o srvid:o srvname:t umuser:o usename:t umoptions:T"),
    ("pg_largeobject_metadata", "oid:o lomowner:o lomacl:T"),
    ("pg_transform", "oid:o trftype:o trflang:o trffromsql:o trftosql:o"),
    ("pg_parameter_acl", "oid:o parname:t paracl:T"),
    ("pg_ts_config", "oid:o cfgname:t cfgnamespace:o cfgowner:o cfgparser:o"),
];
