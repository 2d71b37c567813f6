//! Generates the types of requests and responses of the API.
//!
//! progenitor generates the structs from the schemas alone: [`crate::calls`] generates the builders of operations, and
//! responses have none. The steps below adapt the structs.

use std::collections::BTreeMap;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow};
use heck::ToUpperCamelCase;
use openapiv3::OpenAPI;
use proc_macro2::TokenStream;
use progenitor_impl::{GenerationSettings, Generator, InterfaceStyle};
use quote::{format_ident, quote};
use serde_json::Value;
use syn::parse_quote;

use crate::document::Document;
use crate::expand::{Contents, DATA, PAGING};
use crate::{generate, normalise, walk};

/// The items of the module `types`.
pub(crate) struct Types {
    pub(crate) items: Vec<syn::Item>,
    /// The fields of each struct: the wire name, the Rust name, the type.
    structs: BTreeMap<String, Vec<Field>>,
}

/// A field of a struct.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) wire_name: String,
    pub(crate) ident: syn::Ident,
    pub(crate) ty: syn::Type,
    pub(crate) docs: Vec<syn::Attribute>,
}

impl Field {
    /// The type inside `Option`, if it is one.
    pub(crate) fn optional(&self) -> Option<&syn::Type> {
        argument_of(&self.ty, "Option")
    }

    /// The type without `Option`.
    pub(crate) fn required_type(&self) -> &syn::Type {
        self.optional().unwrap_or(&self.ty)
    }
}

/// The `T` of a type `name<T>`.
pub(crate) fn argument_of<'t>(ty: &'t syn::Type, name: &str) -> Option<&'t syn::Type> {
    let syn::Type::Path(path) = ty else {
        return None;
    };
    let last = path.path.segments.last()?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        syn::GenericArgument::Type(argument) if last.ident == name => Some(argument),
        _ => None,
    }
}

impl Types {
    /// The types for a description.
    pub(crate) fn of(document: &Document) -> Result<Self> {
        let source = &document.source;
        let tree = normalise::for_types(&document.tree);
        let enums = enums(&tree);
        let spec: OpenAPI = serde_json::from_value(tree.clone())
            .with_context(|| format!("{source}: not OpenAPI after normalisation"))?;
        let mut settings: GenerationSettings = generate::settings();
        settings
            .with_interface(InterfaceStyle::Positional)
            .with_map_type("::std::collections::BTreeMap")
            .with_derive("PartialEq");
        for name in enums.keys() {
            settings.with_replacement(name, format!("crate::types::{name}"), iter::empty());
        }
        let mut generator = Generator::new(&settings);
        // progenitor panics on what it does not support.
        let tokens = catch_unwind(AssertUnwindSafe(|| generator.generate_tokens(&spec)))
            .map_err(|_| anyhow!("{source}: progenitor panicked, see its message above"))?
            .with_context(|| format!("{source}: progenitor cannot generate types"))?;
        let code: syn::File = syn::parse2(tokens)
            .with_context(|| format!("{source}: progenitor generated invalid Rust"))?;
        let mut items: Vec<syn::Item> = generate::module(&code, "types").cloned().collect();
        only_structs(&mut items);
        can_be_extended(&mut items);
        let requests = requests(&tree);
        let sent = [bodies(&tree), requests.clone()].concat();
        tolerate_absent(&mut items, &sent, &totals(&document.written));
        let structs = structs(&items);
        let mut types = Self { items, structs };
        types.constructors(&tree, &requests);
        types.items.extend(enums.values().map(open_enum));
        Ok(types)
    }

    /// The fields of a struct.
    pub(crate) fn fields(&self, name: &str) -> Result<&[Field]> {
        let fields = self.structs.get(name);
        fields
            .map(Vec::as_slice)
            .with_context(|| format!("`{name}` is not an object with properties"))
    }

    /// Gives each object of a request a constructor with its required fields, and a setter for each other field. There
    /// are no struct literals, so a new field breaks no caller.
    fn constructors(&mut self, tree: &Value, names: &[String]) {
        for name in names {
            let Some(fields) = self.structs.get(name) else {
                continue;
            };
            let ident = format_ident!("{name}");
            let is_required =
                |field: &&Field| is_required(&tree["components"]["schemas"][name], field);
            // In the order of the description.
            let names = tree["components"]["schemas"][name]["required"].as_array();
            let required: Vec<&Field> = names
                .into_iter()
                .flatten()
                .filter_map(|name| fields.iter().find(|field| *name == field.wire_name))
                .collect();
            let (arguments, conversions): (Vec<_>, Vec<_>) =
                required.iter().map(|field| argument(field)).unzip();
            let idents = required.iter().map(|field| &field.ident);
            let unset = fields.iter().filter(|field| !is_required(field));
            let unset_idents = unset.clone().map(|field| &field.ident);
            let setters = unset.map(setter);
            let doc = "With what is required.";
            self.items.push(parse_quote! {
                impl #ident {
                    #[doc = #doc]
                    #[must_use]
                    pub fn new(#(#arguments),*) -> Self {
                        Self {
                            #(#idents: #conversions,)*
                            #(#unset_idents: ::std::option::Option::None,)*
                        }
                    }
                    #(#setters)*
                }
            });
        }
    }
}

fn is_required(schema: &Value, field: &Field) -> bool {
    let required = schema["required"].as_array();
    required.is_some_and(|names| names.iter().any(|name| *name == field.wire_name))
}

/// The setter of an optional field of a builder or a type.
pub(crate) fn setter(field: &Field) -> TokenStream {
    let (argument, conversion) = argument(field);
    let Field { ident, docs, .. } = field;
    quote! {
        #(#docs)*
        #[must_use]
        pub fn #ident(mut self, #argument) -> Self {
            self.#ident = ::std::option::Option::Some(#conversion);
            self
        }
    }
}

/// The argument of a setter, and its conversion into the value of the field.
fn argument(field: &Field) -> (TokenStream, TokenStream) {
    let Field { ident, .. } = field;
    let ty = field.required_type();
    if let Some(item) = argument_of(ty, "Vec") {
        return (
            quote!(#ident: impl ::std::iter::IntoIterator<Item = impl ::std::convert::Into<#item>>),
            quote!(#ident.into_iter().map(::std::convert::Into::into).collect()),
        );
    }
    let value: Option<syn::Type> = match ty {
        syn::Type::Path(path) => path.path.segments.last().and_then(|last| {
            match (last.ident.to_string().as_str(), &last.arguments) {
                ("BTreeMap", syn::PathArguments::AngleBracketed(arguments)) => {
                    match arguments.args.iter().nth(1) {
                        Some(syn::GenericArgument::Type(value)) => Some(value.clone()),
                        _ => None,
                    }
                }
                ("Map", _) => Some(parse_quote!(::serde_json::Value)),
                _ => None,
            }
        }),
        _ => None,
    };
    if let Some(value) = value {
        return (
            quote!(#ident: impl ::std::iter::IntoIterator<
                Item = (
                    impl ::std::convert::Into<::std::string::String>,
                    impl ::std::convert::Into<#value>,
                ),
            >),
            quote!(#ident.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
        );
    }
    (
        quote!(#ident: impl ::std::convert::Into<#ty>),
        quote!(#ident.into()),
    )
}

/// Removes all functions: responses are deserialized, not built.
fn only_structs(items: &mut Vec<syn::Item>) {
    items.retain(|item| matches!(item, syn::Item::Struct(_)));
}

/// Marks all structs `#[non_exhaustive]`: Coze adds fields.
fn can_be_extended(items: &mut [syn::Item]) {
    for item in items {
        if let syn::Item::Struct(each) = item {
            each.attrs.push(parse_quote!(#[non_exhaustive]));
        }
    }
}

/// Lets an answer leave out a required list or map, the total of a page, or a text with a default, or hold null instead: Coze's servers do so
/// if they are empty. Types in `sent` stay strict.
fn tolerate_absent(items: &mut [syn::Item], sent: &[String], totals: &[(String, String)]) {
    for item in items {
        let syn::Item::Struct(each) = item else {
            continue;
        };
        let name = each.ident.to_string();
        if sent.contains(&name) {
            continue;
        }
        for field in &mut each.fields {
            let Some(read) = self::field(field) else {
                continue;
            };
            let is_total = totals.contains(&(name.clone(), read.wire_name));
            let is_list = ["Vec", "BTreeMap", "Map"]
                .iter()
                .any(|list| argument_of(&read.ty, list).is_some());
            let has_default = field.attrs.iter().any(is_default);
            if is_total && argument_of(&read.ty, "Option").is_none() || is_list || has_default {
                field.attrs.retain(|attribute| !is_default(attribute));
                field.attrs.push(
                    parse_quote!(#[serde(default, deserialize_with = "::coze_wire::null_is_default")]),
                );
            }
        }
    }
}

/// Whether an attribute is `#[serde(default)]`.
fn is_default(attribute: &syn::Attribute) -> bool {
    let word = attribute.path().is_ident("serde");
    word && attribute
        .parse_args::<syn::Ident>()
        .is_ok_and(|word| word == "default")
}

/// The page and the field of the total of each list that has one.
fn totals(tree: &Value) -> Vec<(String, String)> {
    let totals = walk::operations(tree).into_iter().filter_map(|operation| {
        let total = operation.field(PAGING)["total"].as_str()?;
        let schema = match Contents::of(&operation.field("responses")["200"][DATA]) {
            Contents::Data(schema) | Contents::Whole(schema) => schema,
            Contents::Nothing => return None,
        };
        let (_, page) = walk::reference(schema)?.rsplit_once('/')?;
        Some((page.to_owned(), total.to_owned()))
    });
    totals.collect()
}

fn structs(items: &[syn::Item]) -> BTreeMap<String, Vec<Field>> {
    let structs = items.iter().filter_map(|item| match item {
        syn::Item::Struct(each) => Some(each),
        _ => None,
    });
    structs
        .map(|each| {
            let fields = each.fields.iter().filter_map(field).collect();
            (each.ident.to_string(), fields)
        })
        .collect()
}

fn field(field: &syn::Field) -> Option<Field> {
    let ident = field.ident.clone()?;
    let mut wire_name = ident.to_string();
    for attribute in field
        .attrs
        .iter()
        .filter(|each| each.path().is_ident("serde"))
    {
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("rename") {
                wire_name = meta.value()?.parse::<syn::LitStr>()?.value();
            } else if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            }
            Ok(())
        });
    }
    let docs = field
        .attrs
        .iter()
        .filter(|each| each.path().is_ident("doc"));
    Some(Field {
        wire_name,
        ident,
        ty: field.ty.clone(),
        docs: docs.cloned().collect(),
    })
}

/// The components that are enums of words, by name.
fn enums(tree: &Value) -> BTreeMap<String, Enum> {
    let schemas = tree["components"]["schemas"].as_object();
    schemas
        .into_iter()
        .flatten()
        .filter(|(_, schema)| schema["type"] == "string" && schema["enum"].is_array())
        .map(|(name, schema)| {
            let words = schema["enum"].as_array().into_iter().flatten();
            let each = Enum {
                name: name.clone(),
                doc: schema["description"]
                    .as_str()
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
                words: words.filter_map(Value::as_str).map(str::to_owned).collect(),
            };
            (name.clone(), each)
        })
        .collect()
}

struct Enum {
    name: String,
    doc: String,
    words: Vec<String>,
}

/// An enum with a variant for words that are not listed.
fn open_enum(each: &Enum) -> syn::Item {
    let name = format_ident!("{}", each.name);
    let doc = &each.doc;
    let words = each.words.iter().map(|word| {
        let variant = format_ident!("{}", word.to_lowercase().to_upper_camel_case());
        quote!(#variant = #word)
    });
    parse_quote! {
        ::coze_wire::open_enum! {
            #[doc = #doc]
            #name { #(#words),* }
        }
    }
}

/// The names of the bodies of requests.
fn bodies(tree: &Value) -> Vec<String> {
    let schemas = tree["components"]["schemas"].as_object();
    let names = schemas.into_iter().flatten().map(|(name, _)| name.clone());
    names.filter(|name| name.ends_with("Body")).collect()
}

/// The names of the objects in requests, except bodies, which builders build.
fn requests(tree: &Value) -> Vec<String> {
    let schemas = &tree["components"]["schemas"];
    let bodies = bodies(tree).into_iter();
    let mut waiting: Vec<String> = bodies
        .map(|name| format!("/components/schemas/{name}"))
        .collect();
    let mut found = Vec::new();
    while let Some(at) = waiting.pop() {
        for (_, target) in walk::references(tree, &at) {
            let Some(target) = target else { continue };
            if let Some(name) = target.strip_prefix("/components/schemas/")
                && schemas[name]["properties"].is_object()
                && !found.iter().any(|known| known == name)
            {
                found.push(name.to_owned());
                waiting.push(target.clone());
            }
        }
    }
    found.sort();
    found
}
