//! gRPC: `shop.v1.Orders` served here, `Users` and `Recommendations` called.

use std::error::Error;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Failure, Shop};

/// Made from `shop.proto` by `build.rs`.
pub mod proto {
    tonic::include_proto!("shop.v1");
}

use proto::orders_server::{Orders, OrdersServer};
use proto::recommendations_client::RecommendationsClient;
use proto::users_client::UsersClient;

/// A call to another service takes at most so long.
const LIMIT: Duration = Duration::from_secs(5);

/// The services that this one calls.
#[derive(Clone)]
pub struct Others {
    users: UsersClient<Channel>,
    recommendations: RecommendationsClient<Channel>,
}

impl Others {
    pub fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            users: UsersClient::new(channel("users")?),
            recommendations: RecommendationsClient::new(channel("recommendations-grpc")?),
        })
    }

    pub async fn user(&self, id: &str) -> Result<proto::User, Status> {
        let request = proto::GetUserRequest { id: id.into() };
        Ok(self.users.clone().get(request).await?.into_inner())
    }

    /// Asks one question on a stream that could carry many.
    pub async fn suggestion(&self, user: &str) -> Result<proto::Suggestion, Status> {
        let questions = tokio_stream::iter([proto::SuggestRequest { user: user.into() }]);
        let mut answers = self.recommendations.clone().suggest(questions).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::internal("no suggestion"))
    }
}

/// tonic does not read the proxy variables: it is led to the sidecar, and the
/// calls carry the name of the service.
fn channel(name: &str) -> Result<Channel, Box<dyn Error>> {
    let origin = format!("http://{name}");
    let way = std::env::var("HTTP_PROXY").unwrap_or_else(|_| origin.clone());
    Ok(Endpoint::from_shared(way)?.origin(origin.parse()?).timeout(LIMIT).connect_lazy())
}

/// The service, for a route.
pub fn server(shop: Shop) -> OrdersServer<Server> {
    OrdersServer::new(Server(shop))
}

pub struct Server(Shop);

#[tonic::async_trait]
impl Orders for Server {
    async fn place(
        &self,
        request: Request<Streaming<proto::NewOrder>>,
    ) -> Result<Response<proto::Receipt>, Status> {
        let orders = request.into_inner().collect::<Result<Vec<_>, _>>().await?;
        check(&orders)?;
        let mut users: Vec<_> = orders.iter().map(|order| &order.user).collect();
        users.sort_unstable();
        users.dedup();
        for user in users {
            self.0.others.user(user).await.map_err(|status| passed_on(&status))?;
        }
        let new: Vec<_> = orders.into_iter().map(|order| (order.user, vec![order.item])).collect();
        let placed = super::place(&self.0, &new).await;
        let orders = placed.map_err(|Failure(_, why)| Status::unavailable(why.to_string()))?;
        Ok(Response::new(proto::Receipt { orders }))
    }
}

/// Names every field that is wrong, for a program to read.
fn check(orders: &[proto::NewOrder]) -> Result<(), Status> {
    let mut wrong = ErrorDetails::new();
    if orders.is_empty() {
        wrong.add_bad_request_violation("orders", "a basket has at least one order");
    }
    for (index, order) in orders.iter().enumerate() {
        if order.item.is_empty() {
            wrong.add_bad_request_violation(format!("orders[{index}].item"), "an order has an item");
        }
    }
    if wrong.has_bad_request_violations() {
        return Err(Status::with_error_details(Code::InvalidArgument, "the basket is not in order", wrong));
    }
    Ok(())
}

/// Code, message and details as they came; the metadata was for us.
fn passed_on(status: &Status) -> Status {
    Status::with_details(status.code(), status.message(), status.details().to_vec().into())
}

/// What another service said, for whoever asked over REST.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::NotFound | Code::InvalidArgument => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_GATEWAY,
        };
        let details = status.get_error_details();
        let resource = details.resource_info().map(
            |about| json!({"type": about.resource_type, "name": about.resource_name, "owner": about.owner}),
        );
        let reason =
            details.error_info().map(|about| json!({"reason": about.reason, "domain": about.domain}));
        let said = [("resource", resource), ("info", reason)];
        let mut body = json!({"error": status.message(), "code": format!("{:?}", status.code())});
        for (name, value) in said.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            body[name] = Value::clone(&value);
        }
        Self(code, body)
    }
}
