//! What a browser sees at the port: a line that says where it is. The pages for people come with the browser ceremony.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};

const TEXT: &str = "This is a Portlatch proxy. People reach it with `portlatch login --proxy URL`.\n";

/// The service of every path.
pub(super) struct Page;

impl<B> Service<Request<B>> for Page {
    type Response = Response<Text>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Text>, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let mut response = Response::new(Text(Some(Bytes::from_static(TEXT.as_bytes()))));
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        *response.status_mut() = match (is_read, request.uri().path()) {
            (true, "/") => StatusCode::OK,
            (true, _) => StatusCode::NOT_FOUND,
            (false, _) => StatusCode::METHOD_NOT_ALLOWED,
        };
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-security-policy", "default-src 'none'"),
            ("x-content-type-options", "nosniff"),
        ] {
            response.headers_mut().insert(name, value.parse().expect("these values are visible ASCII"));
        }
        ready(Ok(response))
    }
}

/// A body of one piece.
pub(super) struct Text(Option<Bytes>);

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(0)))
    }
}
