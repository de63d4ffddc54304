//! The one table of routes: path, method, policy, documentation and handler stand in one row, so that a route without a
//! policy or without documentation can't be written down.

use crate::app::App;
use axum::handler::Handler;
use axum::routing::{MethodRouter, on};
use http::Method;
use nm_types::auth::Role;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Anybody, without a token.
    Public,
    /// Anybody who is signed in, for what is their own.
    Own,
    /// Role and scope: `area:read` or `area:write`.
    Needs { role: Role, area: &'static str, write: bool },
}

impl Policy {
    /// Reading, for everybody who is signed in.
    pub const fn read(area: &'static str) -> Self {
        Self::Needs {
            role: Role::Viewer,
            area,
            write: false,
        }
    }
    /// Changing, for operators.
    pub const fn write(area: &'static str) -> Self {
        Self::Needs {
            role: Role::Operator,
            area,
            write: true,
        }
    }
    /// Reading what only admins may see.
    pub const fn admin_read(area: &'static str) -> Self {
        Self::Needs {
            role: Role::Admin,
            area,
            write: false,
        }
    }
    /// Changing, for admins.
    pub const fn admin(area: &'static str) -> Self {
        Self::Needs {
            role: Role::Admin,
            area,
            write: true,
        }
    }
}

type SchemaList = Vec<(String, RefOr<Schema>)>;

/// The shape of a body, collected for the document.
pub struct Shape {
    pub schema: serde_json::Value,
    pub components: SchemaList,
}

impl Shape {
    pub fn of<T: ToSchema>() -> Self {
        let mut components = Vec::new();
        T::schemas(&mut components);
        let inline = T::schema();
        // Containers such as `Vec<T>` have no name of their own worth referring to.
        let schema = match &inline {
            RefOr::T(Schema::Object(_) | Schema::AllOf(_) | Schema::OneOf(_)) => {
                components.push((T::name().into_owned(), inline));
                serde_json::json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
            }
            other => serde_json::to_value(other).unwrap_or_default(),
        };
        Self { schema, components }
    }
}

/// One way a route answers well.
pub enum Answer {
    /// The envelope around a shape.
    One(u16, Shape),
    /// The envelope around an array, with `count` and `nextCursor`.
    List(Shape),
    /// 202 with an operation.
    Operation,
    /// Anything else: status, content type.
    Raw(u16, &'static str),
}

/// One row.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub policy: Policy,
    pub summary: &'static str,
    pub parameters: Vec<Parameter>,
    pub body: Option<(Shape, bool)>,
    pub raw_body: Option<&'static str>,
    pub answers: Vec<Answer>,
    pub handler: MethodRouter<App>,
    /// Whether a stream ticket in the URL is taken in place of a header.
    pub ticket: bool,
    /// Whether it may take longer than a request otherwise may, and more than a request otherwise may carry.
    pub streams: bool,
    /// Whether `Idempotency-Key` makes a repeated request answer the same. Where it does not, names keep things single.
    pub idempotent: bool,
}

/// Starts a row. `path` is as axum and OpenAPI write it: `/api/containers/{id}`.
pub fn route<H, T>(method: Method, path: &'static str, policy: Policy, summary: &'static str, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = axum::routing::MethodFilter::try_from(method.clone()).unwrap_or(axum::routing::MethodFilter::GET);
    Route {
        method,
        path,
        policy,
        summary,
        parameters: Vec::new(),
        body: None,
        raw_body: None,
        answers: Vec::new(),
        handler: on(filter, handler),
        ticket: false,
        streams: false,
        idempotent: false,
    }
}

impl Route {
    pub fn query<Q: IntoParams>(mut self) -> Self {
        self.parameters.extend(Q::into_params(|| Some(ParameterIn::Query)));
        self
    }
    pub fn body<T: ToSchema>(mut self) -> Self {
        self.body = Some((Shape::of::<T>(), true));
        self
    }
    pub fn optional_body<T: ToSchema>(mut self) -> Self {
        self.body = Some((Shape::of::<T>(), false));
        self
    }
    pub fn raw_body(mut self, content_type: &'static str) -> Self {
        self.raw_body = Some(content_type);
        self.streams = true;
        self
    }
    pub fn ok<T: ToSchema>(mut self) -> Self {
        self.answers.push(Answer::One(200, Shape::of::<T>()));
        self
    }
    pub fn created<T: ToSchema>(mut self) -> Self {
        self.answers.push(Answer::One(201, Shape::of::<T>()));
        self
    }
    /// 202 with what is being made.
    pub fn begun<T: ToSchema>(mut self) -> Self {
        self.answers.push(Answer::One(202, Shape::of::<T>()));
        self
    }
    pub fn list<T: ToSchema>(mut self) -> Self {
        self.answers.push(Answer::List(Shape::of::<T>()));
        self
    }
    /// It honours `Idempotency-Key`.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
    /// It may answer 202 with an operation.
    pub fn or_operation(mut self) -> Self {
        self.answers.push(Answer::Operation);
        self
    }
    pub fn raw(mut self, content_type: &'static str) -> Self {
        self.answers.push(Answer::Raw(200, content_type));
        self
    }
    /// It streams server-sent events, always or on request.
    pub fn events(mut self) -> Self {
        self.answers.push(Answer::Raw(200, "text/event-stream"));
        self.ticket = true;
        self.streams = true;
        self
    }
    /// It is a WebSocket.
    pub fn websocket(mut self) -> Self {
        self.answers.push(Answer::Raw(101, ""));
        self.ticket = true;
        self.streams = true;
        self
    }
    /// It may take long: no request deadline.
    pub fn long(mut self) -> Self {
        self.streams = true;
        self
    }
}

/// An empty object, for actions that have nothing to say.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize, ToSchema)]
pub struct Nothing {}
