//! Walks over syntax trees. Every walk of this crate goes through here.
//!
//! Invariant: sqlparser's traversal is compiled twice, once to look and once to change. It is generic over the visitor, and covers
//! some hundred kinds of nodes: an instance for each visitor (there are two dozen) made up most of this crate's machine code. The
//! end of a walk carries nothing either, because the traversal keeps one such value for each field of a node on the stack.

use atoll_model::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};
use std::ops::ControlFlow;

/// The name that an identifier is: as written in quotes, in lower case otherwise. As in PostgreSQL and in the planner, only ASCII has cases.
pub(crate) fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// Whether a query is in a tree.
pub(crate) fn has_query(tree: &impl Visit) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    visit(tree, &mut Finder).is_break()
}

/// Walks through a tree.
pub(crate) fn visit(tree: &impl Visit, visitor: &mut dyn Visitor<Break = ()>) -> ControlFlow<()> {
    tree.visit(&mut Looking(visitor))
}

/// Walks through a tree and changes it.
pub(crate) fn visit_mut(tree: &mut impl VisitMut, visitor: &mut dyn VisitorMut<Break = ()>) -> ControlFlow<()> {
    tree.visit(&mut Changing(visitor))
}

/// As [`visit_mut`], for a visitor that can fail.
///
/// # Errors
/// What the visitor broke off with.
pub(crate) fn try_visit_mut(tree: &mut impl VisitMut, visitor: &mut dyn VisitorMut<Break = Error>) -> Result<()> {
    let mut fallible = Fallible { visitor, error: None };
    let _ = visit_mut(tree, &mut fallible);
    fallible.error.map_or(Ok(()), Err)
}

/// Shows every expression, the outer before the inner, until told to break.
pub(crate) fn expressions(tree: &impl Visit, mut f: impl FnMut(&Expr) -> ControlFlow<()>) -> ControlFlow<()> {
    visit(tree, &mut Expressions(&mut f))
}

/// Whether there is such an expression.
pub(crate) fn any_expression(tree: &impl Visit, f: impl Fn(&Expr) -> bool) -> bool {
    expressions(tree, |e| if f(e) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }).is_break()
}

/// Shows every expression, the inner before the outer, to be changed.
pub(crate) fn change_expressions(tree: &mut impl VisitMut, mut f: impl FnMut(&mut Expr)) {
    let _ = visit_mut(tree, &mut ExpressionsMut(&mut f));
}

/// Shows the name of every relation.
pub(crate) fn relations(tree: &impl Visit, mut f: impl FnMut(&ObjectName)) {
    let _ = visit(tree, &mut Relations(&mut f));
}

struct Expressions<'a>(&'a mut dyn FnMut(&Expr) -> ControlFlow<()>);

impl Visitor for Expressions<'_> {
    type Break = ();
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        (self.0)(expr)
    }
}

struct ExpressionsMut<'a>(&'a mut dyn FnMut(&mut Expr));

impl VisitorMut for ExpressionsMut<'_> {
    type Break = ();
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        (self.0)(expr);
        ControlFlow::Continue(())
    }
}

struct Relations<'a>(&'a mut dyn FnMut(&ObjectName));

impl Visitor for Relations<'_> {
    type Break = ();
    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        (self.0)(relation);
        ControlFlow::Continue(())
    }
}

/// Keeps the error aside.
struct Fallible<'a> {
    visitor: &'a mut dyn VisitorMut<Break = Error>,
    error: Option<Error>,
}

impl Fallible<'_> {
    fn flow(&mut self, flow: ControlFlow<Error>) -> ControlFlow<()> {
        match flow {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// Applies a macro to all steps of a walk, whose nodes are `&` or `&mut`.
macro_rules! every_step {
    ($of_each:ident, $($reference:tt)+) => {
        $of_each! {
            pre_visit_query: $($reference)+ Query, post_visit_query: $($reference)+ Query,
            pre_visit_select: $($reference)+ Select, post_visit_select: $($reference)+ Select,
            pre_visit_relation: $($reference)+ ObjectName, post_visit_relation: $($reference)+ ObjectName,
            pre_visit_table_factor: $($reference)+ TableFactor, post_visit_table_factor: $($reference)+ TableFactor,
            pre_visit_expr: $($reference)+ Expr, post_visit_expr: $($reference)+ Expr,
            pre_visit_statement: $($reference)+ Statement, post_visit_statement: $($reference)+ Statement,
            pre_visit_value: $($reference)+ ValueWithSpan, post_visit_value: $($reference)+ ValueWithSpan,
        }
    };
}

/// Hands steps on to a visitor that is not known when this is compiled.
macro_rules! forward {
    ($($step:ident: $node:ty),+ $(,)?) => {
        $(fn $step(&mut self, node: $node) -> ControlFlow<()> {
            self.0.$step(node)
        })+
    };
}

struct Looking<'a>(&'a mut dyn Visitor<Break = ()>);

impl Visitor for Looking<'_> {
    type Break = ();
    every_step!(forward, &);
}

struct Changing<'a>(&'a mut dyn VisitorMut<Break = ()>);

impl VisitorMut for Changing<'_> {
    type Break = ();
    every_step!(forward, &mut);
}

/// As `forward`, for a visitor that breaks off with an error.
macro_rules! keep_errors {
    ($($step:ident: $node:ty),+ $(,)?) => {
        $(fn $step(&mut self, node: $node) -> ControlFlow<()> {
            let flow = self.visitor.$step(node);
            self.flow(flow)
        })+
    };
}

impl VisitorMut for Fallible<'_> {
    type Break = ();
    every_step!(keep_errors, &mut);
}
