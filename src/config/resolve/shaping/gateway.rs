//! What an entry of a gateway says.

use super::{Said, size};
use crate::config::form;

impl<'a> From<&'a form::GatewayRoute> for Said<'a> {
    fn from(form: &'a form::GatewayRoute) -> Self {
        Self {
            request: form.request_headers.as_ref(),
            response: form.response_headers.as_ref(),
            rewrite: form.rewrite.as_ref(),
            redirect: form.redirect.as_ref(),
            respond: form.respond.as_ref(),
            cors: form.cors.as_ref(),
            fault: form.fault.as_ref(),
            split: form.split.as_ref(),
            sticky: form.sticky.as_ref(),
            sizes: (size(&form.max_request_body), size(&form.max_response_body)),
        }
    }
}
