//! The service as its callers see it, with a security key in software that can be told to answer wrongly.

mod access;
mod admin;
mod changed_terms;
mod http;
mod interrupted;
mod logging_in;
mod refusals;
mod scene;
mod soft_key;
mod upkeep;
mod watching;
