//! `ModelProto` to [`Graph`]: names resolved, nodes sorted, functions inlined, everything unsupported listed at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use streampool_core::op::Constant;
use streampool_core::{Error, Result};

use super::tensor;
use super::{Attr, Attrs, DataFolder, Dim, Graph, Interface, Node, ValueId, ValueType, sort};
use crate::onnx::{
    AttributeProto, DimensionValue, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TypeProto, TypeValue, ValueInfoProto, attribute_type as at,
};
use crate::ops;

/// Subgraphs and functions may nest this deep.
const MAX_DEPTH: usize = 64;
/// Nodes of a model after inlining its functions.
const MAX_NODES: usize = 500_000;

/// What the import found.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) graph: Graph,
    /// How many values there are.
    pub(crate) values: usize,
    pub(crate) opsets: Vec<(String, i64)>,
}

/// Names visible in one graph. `None` stands for an optional function input that the call leaves out.
type Scope = HashMap<String, Option<ValueId>>;

struct Importer<'a> {
    folder: &'a DataFolder,
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    values: ValueId,
    nodes: usize,
    depth: usize,
    unsupported: Vec<String>,
}

/// Where nodes are being imported: their operator sets, and the attributes of the function call around them.
#[derive(Clone, Copy)]
struct Context<'a> {
    opsets: &'a HashMap<&'a str, i64>,
    call: Option<&'a HashMap<&'a str, Option<Attr>>>,
}

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn opsets(imports: &[OperatorSetIdProto]) -> HashMap<&str, i64> {
    imports.iter().map(|o| (domain(&o.domain), o.version)).collect()
}

/// Imports a decoded model.
pub(crate) fn import(model: &ModelProto, folder: &DataFolder) -> Result<Imported> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::invalid_model("the file has no graph"))?;
    if model.opset_import.is_empty() {
        return Err(Error::invalid_model("the file names no operator set (opset_import)"));
    }
    let sets = opsets(&model.opset_import);
    if let Some(&v) = sets.get("") {
        if v > ops::NEWEST_OPSET {
            return Err(Error::unsupported(format!(
                "operator set {v} is newer than {}, the newest known here; export the model for an older one",
                ops::NEWEST_OPSET
            )));
        }
        if v < 1 {
            return Err(Error::invalid_model(format!("operator set {v} does not exist")));
        }
    }
    let mut importer = Importer {
        folder,
        functions: model
            .functions
            .iter()
            .map(|f| ((domain(&f.domain), f.name.as_str(), f.overload.as_str()), f))
            .collect(),
        values: 0,
        nodes: 0,
        depth: 0,
        unsupported: Vec::new(),
    };
    let graph = importer.graph(graph, &mut Vec::new(), Context { opsets: &sets, call: None })?;
    if !importer.unsupported.is_empty() {
        let all = &importer.unsupported;
        let more = if all.len() > 50 { format!(" and {} more", all.len() - 50) } else { String::new() };
        return Err(Error::unsupported(format!(
            "{} not supported: {}{more}",
            if all.len() == 1 { "one node is".into() } else { format!("{} nodes are", all.len()) },
            all[..all.len().min(50)].join(", ")
        )));
    }
    let opsets = model.opset_import.iter().map(|o| (o.domain.clone(), o.version)).collect();
    Ok(Imported { graph, values: importer.values as usize, opsets })
}

impl<'a> Importer<'a> {
    fn fresh(&mut self) -> ValueId {
        self.values += 1;
        self.values - 1
    }

    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::invalid_model(format!(
                "subgraphs and functions nest deeper than {MAX_DEPTH} levels, or a function calls itself"
            )));
        }
        Ok(())
    }

    fn graph(&mut self, g: &'a GraphProto, scopes: &mut Vec<Scope>, cx: Context<'_>) -> Result<Graph> {
        self.enter()?;
        let mut scope = Scope::new();
        let mut constants: Vec<(ValueId, Arc<Constant>)> = Vec::new();
        let twice = |name: &str| Error::invalid_model(format!("the value '{name}' is defined twice"));
        for t in &g.initializer {
            let constant = tensor::constant(t, self.folder)?;
            let id = self.fresh();
            if scope.insert(t.name.clone(), Some(id)).is_some() {
                return Err(twice(&t.name));
            }
            constants.push((id, constant));
        }
        if let Some(s) = g.sparse_initializer.first() {
            let name = s.values.as_ref().map_or("", |v| v.name.as_str());
            return Err(Error::unsupported(format!("the sparse initialiser '{name}' is not supported")));
        }
        let initialised: HashSet<&str> = g.initializer.iter().map(|t| t.name.as_str()).collect();
        let mut inputs = Vec::new();
        for i in &g.input {
            // Old files list initialisers among the inputs: they are constants here.
            if initialised.contains(i.name.as_str()) && scopes.is_empty() {
                continue;
            }
            let id = self.fresh();
            if scope.insert(i.name.clone(), Some(id)).is_some() {
                return Err(twice(&i.name));
            }
            inputs.push(interface(i, id).map_err(|e| e.context(format!("input '{}'", i.name)))?);
        }
        scopes.push(scope);
        let mut nodes = Vec::new();
        self.nodes_of(&g.node, scopes, cx, &mut nodes, "")?;
        let mut outputs = Vec::new();
        for o in &g.output {
            let id = lookup(scopes, &o.name).flatten().ok_or_else(|| {
                Error::invalid_model(format!(
                    "the output '{}' is made by no node, input or initialiser",
                    o.name
                ))
            })?;
            outputs.push(interface(o, id).map_err(|e| e.context(format!("output '{}'", o.name)))?);
        }
        scopes.pop();
        self.depth -= 1;
        Ok(Graph { name: g.name.clone(), inputs, outputs, nodes, constants })
    }

    /// Imports nodes of one graph or function body into `out`.
    fn nodes_of(
        &mut self,
        protos: &'a [NodeProto],
        scopes: &mut Vec<Scope>,
        cx: Context<'_>,
        out: &mut Vec<Node>,
        prefix: &str,
    ) -> Result<()> {
        let names: Vec<String> = protos.iter().map(|n| format!("{prefix}{}", name_of(n))).collect();
        let uses: Vec<Vec<String>> = protos
            .iter()
            .map(|n| {
                let mut used: Vec<String> = n.input.iter().filter(|i| !i.is_empty()).cloned().collect();
                captured(n, &mut used, 0);
                used
            })
            .collect();
        let makes: Vec<Vec<String>> =
            protos.iter().map(|n| n.output.iter().filter(|o| !o.is_empty()).cloned().collect()).collect();
        for i in sort::order(&names, &uses, &makes)? {
            self.node(&protos[i], &names[i], scopes, cx, out).map_err(|e| {
                if e.to_string().contains("node '") { e } else { e.context(format!("node '{}'", names[i])) }
            })?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        proto: &'a NodeProto,
        name: &str,
        scopes: &mut Vec<Scope>,
        cx: Context<'_>,
        out: &mut Vec<Node>,
    ) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Error::invalid_model(format!("the model has more than {MAX_NODES} nodes")));
        }
        let inputs = proto
            .input
            .iter()
            .map(|i| {
                if i.is_empty() {
                    return Ok(None);
                }
                lookup(scopes, i).ok_or_else(|| {
                    Error::invalid_model(format!(
                        "{} reads '{i}', which no node, input or initialiser makes",
                        proto.op_type
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let attrs = self.attributes(proto, scopes, cx)?;
        let mut outputs = Vec::with_capacity(proto.output.len());
        for o in &proto.output {
            outputs.push(if o.is_empty() { None } else { Some(self.define(o, scopes)?) });
        }
        let key = (domain(&proto.domain), proto.op_type.as_str(), proto.overload.as_str());
        if let Some(&f) = self.functions.get(&key) {
            return self.inline(f, name, &inputs, &outputs, attrs, cx, out);
        }
        let version = match cx.opsets.get(key.0) {
            Some(&v) => v,
            None => {
                let set = if key.0.is_empty() { "ai.onnx" } else { key.0 };
                return Err(Error::invalid_model(format!(
                    "{} is of the operator set {set}, which the file does not import",
                    key.1
                )));
            }
        };
        if ops::find(key.0, key.1, version).is_none() {
            let set = if key.0.is_empty() { String::new() } else { format!("{}.", key.0) };
            self.unsupported.push(format!("{set}{} '{name}' (operator set {version})", key.1));
        }
        out.push(Node {
            name: name.to_string(),
            op_type: proto.op_type.clone(),
            domain: key.0.to_string(),
            version,
            inputs,
            outputs,
            attrs,
        });
        Ok(())
    }

    /// The id of a value that is made now.
    fn define(&mut self, name: &str, scopes: &mut [Scope]) -> Result<ValueId> {
        let id = self.fresh();
        let scope = scopes.last_mut().expect("a graph's scope is open while its nodes are read");
        if scope.insert(name.to_string(), Some(id)).is_some() {
            return Err(Error::invalid_model(format!("the value '{name}' is defined twice")));
        }
        Ok(id)
    }

    #[allow(clippy::too_many_arguments)]
    fn inline(
        &mut self,
        f: &'a FunctionProto,
        name: &str,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        given: Attrs,
        cx: Context<'_>,
        out: &mut Vec<Node>,
    ) -> Result<()> {
        self.enter()?;
        let mut call: HashMap<&str, Option<Attr>> = HashMap::new();
        for a in &f.attribute {
            call.insert(a, None);
        }
        for a in &f.attribute_proto {
            call.insert(&a.name, Some(self.attribute(a, &mut Vec::new(), cx)?));
        }
        for (n, a) in &given.0 {
            if let Some(slot) = call.get_mut(n.as_str()) {
                *slot = Some(a.clone());
            }
        }
        let mut scope = Scope::new();
        for (i, n) in f.input.iter().enumerate() {
            scope.insert(n.clone(), inputs.get(i).copied().flatten());
        }
        let mut sets = opsets(&f.opset_import);
        for (&d, &v) in cx.opsets {
            sets.entry(d).or_insert(v);
        }
        // Values of the body get fresh ids; an Identity hands each wanted one to the caller's name. Identities cost nothing.
        let mut scopes = vec![scope];
        self.nodes_of(
            &f.node,
            &mut scopes,
            Context { opsets: &sets, call: Some(&call) },
            out,
            &format!("{name}/"),
        )?;
        for (n, &wanted) in f.output.iter().zip(outputs) {
            let Some(wanted) = wanted else { continue };
            let made = lookup(&scopes, n).flatten().ok_or_else(|| {
                Error::invalid_model(format!("function '{}' never makes its output '{n}'", f.name))
            })?;
            out.push(Node {
                name: format!("{name}/{n}"),
                op_type: "Identity".into(),
                domain: String::new(),
                version: 1,
                inputs: vec![Some(made)],
                outputs: vec![Some(wanted)],
                attrs: Attrs::default(),
            });
        }
        self.depth -= 1;
        Ok(())
    }

    fn attributes(&mut self, node: &'a NodeProto, scopes: &mut Vec<Scope>, cx: Context<'_>) -> Result<Attrs> {
        let mut out = Vec::with_capacity(node.attribute.len());
        for a in &node.attribute {
            if a.ref_attr_name.is_empty() {
                out.push((a.name.clone(), self.attribute(a, scopes, cx)?));
            } else {
                let call = cx.call.ok_or_else(|| {
                    Error::invalid_model(format!(
                        "attribute '{}' refers to a function's, outside of a function",
                        a.name
                    ))
                })?;
                // A function attribute without default that the call leaves out is left out here as well.
                if let Some(Some(value)) = call.get(a.ref_attr_name.as_str()) {
                    out.push((a.name.clone(), value.clone()));
                }
            }
        }
        Ok(Attrs(out))
    }

    fn attribute(&mut self, a: &'a AttributeProto, scopes: &mut Vec<Scope>, cx: Context<'_>) -> Result<Attr> {
        let missing = || Error::invalid_model(format!("attribute '{}' has a type but no value", a.name));
        // Files of IR version 1 leave the type out.
        let kind = match a.r#type {
            0 if a.f.is_some() => at::FLOAT,
            0 if a.i.is_some() => at::INT,
            0 if a.s.is_some() => at::STRING,
            0 if a.t.is_some() => at::TENSOR,
            0 if a.g.is_some() => at::GRAPH,
            0 if !a.floats.is_empty() => at::FLOATS,
            0 if !a.strings.is_empty() => at::STRINGS,
            0 => at::INTS,
            other => other,
        };
        Ok(match kind {
            at::FLOAT => Attr::Float(a.f.unwrap_or(0.0)),
            at::INT => Attr::Int(a.i.unwrap_or(0)),
            at::STRING => Attr::Str(a.s.clone().unwrap_or_default()),
            at::FLOATS => Attr::Floats(a.floats.clone()),
            at::INTS => Attr::Ints(a.ints.clone()),
            at::STRINGS => Attr::Strings(a.strings.clone()),
            at::TENSOR => match tensor::constant(a.t.as_ref().ok_or_else(missing)?, self.folder) {
                Ok(c) => Attr::Tensor(c),
                Err(e) if e.is_unsupported() => Attr::Unsupported(e.to_string()),
                Err(e) => return Err(e.context(format!("attribute '{}'", a.name))),
            },
            at::GRAPH => Attr::Graph(Arc::new(self.graph(a.g.as_ref().ok_or_else(missing)?, scopes, cx)?)),
            at::TENSORS | at::GRAPHS => Attr::Unsupported("a list of tensors or graphs".into()),
            at::TYPE_PROTO => Attr::Unsupported("a type".into()),
            other => Attr::Unsupported(format!("of attribute type {other}")),
        })
    }
}

fn name_of(n: &NodeProto) -> String {
    if n.name.is_empty() {
        let first = n.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str);
        format!("{}_{first}", n.op_type)
    } else {
        n.name.clone()
    }
}

fn lookup(scopes: &[Scope], name: &str) -> Option<Option<ValueId>> {
    scopes.iter().rev().find_map(|s| s.get(name)).copied()
}

/// Names that the node's subgraphs read.
fn captured(n: &NodeProto, used: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    for a in &n.attribute {
        for g in a.g.iter().chain(&a.graphs) {
            for inner in &g.node {
                used.extend(inner.input.iter().filter(|i| !i.is_empty()).cloned());
                captured(inner, used, depth + 1);
            }
            used.extend(g.output.iter().map(|o| o.name.clone()));
        }
    }
}

fn interface(v: &ValueInfoProto, id: ValueId) -> Result<Interface> {
    Ok(Interface { id, name: v.name.clone(), ty: value_type(v.r#type.as_ref())? })
}

fn value_type(ty: Option<&TypeProto>) -> Result<ValueType> {
    Ok(match ty.and_then(|t| t.value.as_ref()) {
        None => ValueType::Unknown,
        Some(TypeValue::Sequence(_)) => ValueType::Other("a sequence"),
        Some(TypeValue::Map(_)) => ValueType::Other("a map"),
        Some(TypeValue::Optional(_)) => ValueType::Other("an optional"),
        Some(TypeValue::SparseTensor(_)) => ValueType::Other("a sparse tensor"),
        Some(TypeValue::Tensor(t)) => {
            let dims = match &t.shape {
                None => None,
                Some(shape) => Some(
                    shape
                        .dim
                        .iter()
                        .map(|d| match &d.value {
                            None => Ok(Dim::Unknown),
                            Some(DimensionValue::Param(p)) if p.is_empty() => Ok(Dim::Unknown),
                            Some(DimensionValue::Param(p)) => Ok(Dim::Symbol(p.clone())),
                            // Old exporters write -1 for a free dimension.
                            Some(DimensionValue::Value(-1)) => Ok(Dim::Unknown),
                            Some(DimensionValue::Value(v)) => {
                                usize::try_from(*v).map(Dim::Fixed).map_err(|_| {
                                    Error::invalid_model(format!("the declared shape has the length {v}"))
                                })
                            }
                        })
                        .collect::<Result<Vec<_>>>()?,
                ),
            };
            ValueType::Tensor { dtype: tensor::dtype_of(t.elem_type).ok(), code: t.elem_type, dims }
        }
    })
}
