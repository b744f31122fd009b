//! A route whose calls go to one of several upstreams. For each there is a route
//! of its own with the same policy, so that all that follows (retries, breakers,
//! metrics) is about the upstream that was chosen, once for a call.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;

use super::router::Route;
use super::worker::Worker;
use crate::base::UpstreamName;
use crate::config::model::shaping::Shaping;
use crate::policy::shaping::split;

/// The ways that a call may go.
pub struct Ways {
    shaping: Arc<Shaping>,
    routes: Vec<Rc<Route>>,
}

impl Ways {
    /// The ways of a route with this policy, if it splits its calls. `to` makes
    /// the route to one upstream.
    pub fn new(shaping: Option<&Arc<Shaping>>, to: impl Fn(&UpstreamName) -> Route) -> Option<Box<Self>> {
        let shaping = shaping?;
        let targets = &shaping.split.as_ref()?.targets;
        let routes = targets.iter().map(|(name, _)| Rc::new(to(name))).collect();
        Some(Box::new(Self { shaping: shaping.clone(), routes }))
    }

    /// The way of a call with these fields.
    pub fn pick(&self, headers: &HeaderMap, worker: &Worker) -> Option<Rc<Route>> {
        let split = self.shaping.split.as_ref()?;
        let index = split::pick(split, headers, &mut worker.random.borrow_mut());
        self.routes.get(index).cloned()
    }
}
