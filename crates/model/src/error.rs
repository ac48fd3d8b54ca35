//! The one error type that crosses crate boundaries, with a stable code and an SQLSTATE.
//!
//! Invariant: an error says whether the outcome is determinate. An [`Outcome::Indeterminate`] error (a commit whose
//! acknowledgement was lost) must never be retried by anything but the user.

use std::borrow::Cow;
use std::fmt;

/// `Result` with Atoll's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether the effects of the failed operation are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing was done: retrying is safe.
    Determinate,
    /// The effects may or may not be there.
    Indeterminate,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $state:literal, $code:literal;)*) => {
        /// What went wrong. The stable code is for programs and for the documentation, the SQLSTATE for PostgreSQL's clients.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[doc = $doc])* $name,)* }
        impl ErrorKind {
            /// Every kind, for the table of error codes in the documentation.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$name,)*];
            /// The five-character SQLSTATE of PostgreSQL (appendix A of its manual).
            pub fn sqlstate(self) -> &'static str { match self { $(ErrorKind::$name => $state,)* } }
            /// The stable code.
            pub fn code(self) -> &'static str { match self { $(ErrorKind::$name => $code,)* } }
            /// What it means, as in the documentation.
            pub fn meaning(self) -> &'static str { match self { $(ErrorKind::$name => concat!($($doc),*).trim_ascii(),)* } }
        }
    };
}

kinds! {
    /// The statement is not SQL that Atoll reads.
    Syntax = "42601", "syntax";
    /// Valid SQL that Atoll refuses, with the reason.
    NotSupported = "0A000", "not_supported";
    /// A table or view that does not exist.
    UndefinedTable = "42P01", "undefined_table";
    /// A column that does not exist.
    UndefinedColumn = "42703", "undefined_column";
    /// A function that does not exist for these arguments.
    UndefinedFunction = "42883", "undefined_function";
    /// A parameter `$n` that was not given.
    UndefinedParameter = "42P02", "undefined_parameter";
    /// Any other object (site, index, prepared statement's type …) that does not exist.
    UndefinedObject = "42704", "undefined_object";
    /// A schema that does not exist.
    InvalidSchema = "3F000", "invalid_schema";
    /// A database that does not exist.
    InvalidCatalog = "3D000", "invalid_catalog";
    /// A table of that name exists.
    DuplicateTable = "42P07", "duplicate_table";
    /// A schema of that name exists.
    DuplicateSchema = "42P06", "duplicate_schema";
    /// A column of that name exists.
    DuplicateColumn = "42701", "duplicate_column";
    /// Any other object of that name exists.
    DuplicateObject = "42710", "duplicate_object";
    /// A prepared statement of that name exists.
    DuplicatePrepared = "42P05", "duplicate_prepared_statement";
    /// A cursor of that name exists.
    DuplicateCursor = "42P03", "duplicate_cursor";
    /// No such prepared statement.
    InvalidStatementName = "26000", "invalid_statement_name";
    /// No such cursor or portal.
    InvalidCursorName = "34000", "invalid_cursor_name";
    /// No such savepoint.
    InvalidSavepoint = "3B001", "invalid_savepoint";
    /// A name that could mean two columns.
    AmbiguousColumn = "42702", "ambiguous_column";
    /// A column outside the GROUP BY clause.
    Grouping = "42803", "grouping_error";
    /// A window function where none may stand.
    Windowing = "42P20", "windowing_error";
    /// Types that do not fit together.
    DatatypeMismatch = "42804", "datatype_mismatch";
    /// A cast that does not exist.
    CannotCoerce = "42846", "cannot_coerce";
    /// A table definition that contradicts itself.
    InvalidTableDefinition = "42P16", "invalid_table_definition";
    /// Any other definition that contradicts itself (partition bounds that overlap …).
    InvalidObjectDefinition = "42P17", "invalid_object_definition";
    /// `ON CONFLICT` without a matching unique index, and other column references that cannot work.
    InvalidColumnReference = "42P10", "invalid_column_reference";
    /// The object is not of the kind that the statement needs.
    WrongObjectType = "42809", "wrong_object_type";
    /// Other objects depend on the one to be dropped.
    DependentObjects = "2BP01", "dependent_objects_still_exist";
    /// A value for a column that is GENERATED ALWAYS.
    GeneratedAlways = "428C9", "generated_always";
    /// A foreign key that names something without a unique constraint.
    InvalidForeignKey = "42830", "invalid_foreign_key";
    /// Not allowed for this user.
    InsufficientPrivilege = "42501", "insufficient_privilege";
    /// A GRANT that no role may have: membership in a circle, options for PUBLIC, privileges that the object does not have.
    InvalidGrant = "0LP01", "invalid_grant_operation";
    /// A name that is kept for the system.
    ReservedName = "42939", "reserved_name";
    /// The object is in use: one's own role cannot be dropped.
    ObjectInUse = "55006", "object_in_use";
    /// Wrong password or unknown user.
    InvalidPassword = "28P01", "invalid_password";
    /// The user may not connect.
    InvalidAuthorization = "28000", "invalid_authorization";
    /// NULL in a NOT NULL column.
    NotNullViolation = "23502", "not_null_violation";
    /// No parent row, or children left behind.
    ForeignKeyViolation = "23503", "foreign_key_violation";
    /// A second row with the same key.
    UniqueViolation = "23505", "unique_violation";
    /// A CHECK constraint, or no fragment that takes the row.
    CheckViolation = "23514", "check_violation";
    /// A number outside its type.
    NumericOutOfRange = "22003", "numeric_value_out_of_range";
    /// Division by zero.
    DivisionByZero = "22012", "division_by_zero";
    /// Text that is not a value of the type.
    InvalidText = "22P02", "invalid_text_representation";
    /// Binary data that is not a value of the type.
    InvalidBinary = "22P03", "invalid_binary_representation";
    /// Text longer than varchar(n).
    StringTooLong = "22001", "string_data_right_truncation";
    /// A malformed date or time.
    InvalidDatetime = "22007", "invalid_datetime_format";
    /// A date or time outside its range.
    DatetimeOverflow = "22008", "datetime_field_overflow";
    /// A malformed regular expression.
    InvalidRegex = "2201B", "invalid_regular_expression";
    /// An ESCAPE of more than one character.
    InvalidEscape = "22019", "invalid_escape_character";
    /// A pattern that ends with its escape character.
    InvalidEscapeSequence = "22025", "invalid_escape_sequence";
    /// The logarithm of nothing or less.
    InvalidLogarithm = "2201E", "invalid_argument_for_logarithm";
    /// A power or root that is no real number.
    InvalidPower = "2201F", "invalid_argument_for_power_function";
    /// A width_bucket() without width.
    InvalidWidthBucket = "2201G", "invalid_argument_for_width_bucket_function";
    /// A negative OFFSET.
    InvalidOffset = "2201X", "invalid_row_count_in_result_offset";
    /// A subscript that no array has.
    ArraySubscript = "2202E", "array_subscript_error";
    /// A negative length of a substring.
    Substring = "22011", "substring_error";
    /// An argument outside what a function takes.
    InvalidParameterValue = "22023", "invalid_parameter_value";
    /// A scalar subquery with several rows.
    Cardinality = "21000", "cardinality_violation";
    /// A negative LIMIT.
    InvalidLimit = "2201W", "invalid_row_count_in_limit";
    /// A byte sequence that is not UTF-8.
    InvalidEncoding = "22021", "character_not_in_repertoire";
    /// A malformed COPY stream.
    BadCopyFormat = "22P04", "bad_copy_file_format";
    /// A sequence that has run out.
    SequenceExhausted = "2200H", "sequence_generator_limit_exceeded";
    /// `currval` before `nextval`, cursor at the wrong place, and the like.
    NotInPrerequisiteState = "55000", "object_not_in_prerequisite_state";
    /// The transaction lost against another: run it again.
    SerializationFailure = "40001", "serialization_failure";
    /// A deadlock; this transaction was chosen to end it.
    Deadlock = "40P01", "deadlock_detected";
    /// A commit whose result is not known.
    StatementCompletionUnknown = "40003", "statement_completion_unknown";
    /// `lock_timeout` passed.
    LockTimeout = "55P03", "lock_not_available";
    /// The statement was cancelled, or `statement_timeout` passed.
    QueryCanceled = "57014", "query_canceled";
    /// The server is shutting down.
    AdminShutdown = "57P01", "admin_shutdown";
    /// The server is not ready.
    CannotConnectNow = "57P03", "cannot_connect_now";
    /// Only ROLLBACK is possible.
    InFailedTransaction = "25P02", "in_failed_sql_transaction";
    /// Needs a transaction block.
    NoActiveTransaction = "25P01", "no_active_sql_transaction";
    /// Must not stand in a transaction block.
    ActiveTransaction = "25001", "active_sql_transaction";
    /// A write in a read-only transaction.
    ReadOnlyTransaction = "25006", "read_only_sql_transaction";
    /// A site cannot be reached.
    SiteUnavailable = "08006", "site_unavailable";
    /// A malformed message on the wire.
    ProtocolViolation = "08P01", "protocol_violation";
    /// Too many connections.
    TooManyConnections = "53300", "too_many_connections";
    /// Out of memory within the configured limit.
    OutOfMemory = "53200", "out_of_memory";
    /// The disk is full.
    DiskFull = "53100", "disk_full";
    /// A limit of the program (statement size, columns, parameters).
    ProgramLimit = "54000", "program_limit_exceeded";
    /// A setting that is fixed.
    CantChangeParameter = "55P02", "cant_change_runtime_param";
    /// A configuration file that cannot be read.
    ConfigurationFile = "F0000", "config_file_error";
    /// Reading or writing files failed.
    Io = "58030", "io_error";
    /// A file whose content is not what was written.
    DataCorrupted = "XX001", "data_corrupted";
    /// A defect of Atoll.
    Internal = "XX000", "internal_error";
}

/// An error as the user sees it: what happened (message), where (detail, position), what to do next (hint).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.0.message)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<u32>,
    constraint: Option<String>,
    table: Option<String>,
    outcome: Outcome,
    no_effect: bool,
}

impl Error {
    /// A determinate error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            constraint: None,
            table: None,
            outcome: Outcome::Determinate,
            no_effect: false,
        }))
    }
    /// Shorthand for [`ErrorKind::NotSupported`].
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotSupported, message)
    }
    /// Shorthand for [`ErrorKind::Internal`]: a defect of Atoll.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
    /// Adds PostgreSQL's DETAIL line.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }
    /// Adds PostgreSQL's HINT line: what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
    /// Adds the place in the statement, in characters from 1.
    pub fn position(mut self, position: u32) -> Self {
        self.0.position = Some(position);
        self
    }
    /// Names the constraint that was violated.
    pub fn constraint(mut self, name: impl Into<String>) -> Self {
        self.0.constraint = Some(name.into());
        self
    }
    /// Names the table concerned.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.0.table = Some(name.into());
        self
    }
    /// Marks the outcome as unknown.
    pub fn indeterminate(mut self) -> Self {
        self.0.outcome = Outcome::Indeterminate;
        self
    }
    /// Marks it as met before the statement did anything: the statement may run again in the same transaction.
    pub fn before_any_effect(mut self) -> Self {
        self.0.no_effect = true;
        self
    }
    /// Whether the statement had done nothing yet.
    pub fn is_before_any_effect(&self) -> bool {
        self.0.no_effect
    }
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// One sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The DETAIL line.
    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
    /// The HINT line.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// The place in the statement, in characters from 1.
    pub fn position_in_statement(&self) -> Option<u32> {
        self.0.position
    }
    /// The constraint that was violated.
    pub fn constraint_name(&self) -> Option<&str> {
        self.0.constraint.as_deref()
    }
    /// The table concerned.
    pub fn table_name(&self) -> Option<&str> {
        self.0.table.as_deref()
    }
    /// Whether the effects are known.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
