//! A loaded model, and planning it for concrete inputs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use prost::Message;
use streampool_core::op::{Constant, DType, TensorType};
use streampool_core::{Error, Result};

use crate::ir::{self, DataFolder, Dim, Graph, Interface, ValueType};
use crate::lower::{Folded, Lower, Source, Stop, Value};
use crate::onnx::{ModelProto, data_type};
use crate::plan::Plan;
use crate::{passes, plan};

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Rewrite the lowered graph (fusions). On by default; off shows what the file says, step by step.
    pub fuse: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { fuse: true }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceInfo {
    /// Its name in the file.
    pub name: String,
    /// Element type; for outputs `None` if the file does not say.
    pub dtype: Option<DType>,
    /// Axis lengths; `None` if the file leaves the rank open.
    pub dims: Option<Vec<Dim>>,
}

/// What planning is told of one input.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// Its dtype and shape.
    pub ty: TensorType,
    /// Its bytes, row-major and little endian, where [`Planned::NeedValues`] asked for them.
    pub value: Option<Bytes>,
}

impl InputSpec {
    /// An input of this type whose values are not needed for planning.
    pub fn new(ty: TensorType) -> Self {
        Self { ty, value: None }
    }

    /// The same with its value.
    #[must_use]
    pub fn with_value(mut self, value: Bytes) -> Self {
        self.value = Some(value);
        self
    }
}

/// What [`Model::plan`] gives.
#[derive(Debug)]
pub enum Planned {
    /// The plan.
    Plan(Box<Plan>),
    /// Shapes depend on the values of these inputs (by index): call again with them. The plan is then for these very values.
    NeedValues(Vec<usize>),
}

/// One node of the imported graph, for people.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// Its operator, led by the domain if it is not ONNX's own.
    pub op_type: String,
    /// How many nodes its subgraphs have.
    pub nested: usize,
}

/// An imported model: immutable, shared by all threads.
#[derive(Debug)]
pub struct Model {
    name: String,
    graph: Graph,
    values: usize,
    inputs: Vec<InterfaceInfo>,
    outputs: Vec<InterfaceInfo>,
    opsets: Vec<(String, i64)>,
    producer: String,
    metadata: Vec<(String, String)>,
    options: LoadOptions,
    folder: DataFolder,
    folded: Folded,
    value_inputs: Mutex<BTreeSet<usize>>,
}

impl Model {
    /// Loads an `.onnx` file with its external data.
    ///
    /// The files are mapped, not read: weights are paged in as they are used. Do not truncate or rewrite them while the model
    /// lives; replace them by renaming, or use [`Model::from_bytes`].
    ///
    /// # Errors
    /// `is_io` if the file cannot be read; `is_invalid_model` if it is damaged, contradicts itself or points outside its folder;
    /// `is_unsupported` naming every node that is not supported.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let path = path.as_ref();
        let folder = DataFolder::of(path);
        let bytes = folder.map(path)?;
        let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Self::import(bytes, folder, name, options)
            .map_err(|e| e.context(format!("model '{}'", path.display())))
    }

    /// Loads from the bytes of an `.onnx` file. External data is refused.
    ///
    /// # Errors
    /// As [`Model::load`], without `is_io`.
    pub fn from_bytes(bytes: impl Into<Bytes>, options: &LoadOptions) -> Result<Self> {
        Self::import(bytes.into(), DataFolder::none(), String::new(), options)
    }

    fn import(bytes: Bytes, folder: DataFolder, name: String, options: &LoadOptions) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::invalid_model("the file is empty"));
        }
        let length = bytes.len();
        let proto = ModelProto::decode(bytes).map_err(|e| {
            Error::invalid_model(format!("this is no ONNX file, or it is damaged ({length} bytes): {e}"))
                .caused_by(e)
        })?;
        let imported = ir::import(&proto, &folder)?;
        let inputs =
            imported.graph.inputs.iter().map(|i| info(i, "input", true)).collect::<Result<Vec<_>>>()?;
        let outputs =
            imported.graph.outputs.iter().map(|o| info(o, "output", false)).collect::<Result<Vec<_>>>()?;
        let producer =
            [proto.producer_name.as_str(), proto.producer_version.as_str()].join(" ").trim().to_string();
        Ok(Self {
            name: if name.is_empty() { imported.graph.name.clone() } else { name },
            graph: imported.graph,
            values: imported.values,
            inputs,
            outputs,
            opsets: imported.opsets,
            producer,
            metadata: proto.metadata_props.into_iter().map(|p| (p.key, p.value)).collect(),
            options: options.clone(),
            folder,
            folded: Folded::default(),
            value_inputs: Mutex::default(),
        })
    }

    /// The file's name, or the graph's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What must be given to a run, in order.
    pub fn inputs(&self) -> &[InterfaceInfo] {
        &self.inputs
    }

    /// What a run gives, in order.
    pub fn outputs(&self) -> &[InterfaceInfo] {
        &self.outputs
    }

    /// Operator sets by domain (`""` is ONNX's own).
    pub fn opsets(&self) -> &[(String, i64)] {
        &self.opsets
    }

    /// The program that wrote the file, with its version.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// Key and value pairs of the file.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Bytes of the initialisers.
    pub fn weight_bytes(&self) -> usize {
        self.graph.constants.iter().map(|(_, c)| c.data().len()).sum()
    }

    /// The nodes, in order of execution.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        fn nested(n: &ir::Node) -> usize {
            n.attrs
                .0
                .iter()
                .map(|(_, a)| match a {
                    ir::Attr::Graph(g) => g.nodes.iter().map(|n| 1 + nested(n)).sum(),
                    _ => 0,
                })
                .sum()
        }
        let op_type = |n: &ir::Node| {
            if n.domain.is_empty() { n.op_type.clone() } else { format!("{}.{}", n.domain, n.op_type) }
        };
        self.graph
            .nodes
            .iter()
            .map(|n| NodeInfo { name: n.name.clone(), op_type: op_type(n), nested: nested(n) })
            .collect()
    }

    /// Tells the system that the mapped files' pages are not needed now: after a device packed the weights, they would be in memory twice.
    /// Pages that are touched again are read again.
    pub fn release_pages(&self) {
        self.folder.release_pages();
    }

    /// Inputs whose values planning has asked for so far: give them at once and a round is saved.
    pub fn value_inputs(&self) -> Vec<usize> {
        self.value_inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().copied().collect()
    }

    /// Plans a run for inputs of these types, in the order of [`Model::inputs`].
    ///
    /// # Errors
    /// `is_invalid_argument` if an input's dtype, rank or length does not fit (symbolic dimensions must agree), or an operator refuses
    /// the shapes; `is_unsupported` and `is_invalid_model` for what only concrete shapes show.
    pub fn plan(&self, inputs: &[InputSpec]) -> Result<Planned> {
        self.check_inputs(inputs)?;
        let mut lower = Lower::new(self.values, &self.folded);
        for (i, (spec, interface)) in inputs.iter().zip(&self.graph.inputs).enumerate() {
            let view = match &spec.value {
                Some(bytes) => lower.constant(Constant::new(spec.ty.clone(), bytes.clone()), false),
                None => lower.lir.add_buf(spec.ty.clone(), Source::Input(i as u32)),
            };
            lower.bind(interface.id, Value::Tensor(view));
        }
        match lower.graph(&self.graph) {
            Ok(()) => {}
            Err(Stop::Need(which)) => {
                self.value_inputs
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .extend(which.iter().copied());
                return Ok(Planned::NeedValues(which.into_iter().collect()));
            }
            Err(Stop::Error(e)) => return Err(e),
        }
        for o in &self.graph.outputs {
            match lower.value(o.id) {
                Ok(Value::Tensor(v)) => lower.lir.outputs.push(v),
                Ok(_) => {
                    return Err(Error::unsupported(format!("output '{}' is no tensor", o.name)));
                }
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(_)) => return Err(Error::internal("a finished value asks for inputs")),
            }
        }
        let fused = if self.options.fuse { passes::run(&mut lower)? } else { Vec::new() };
        let lir = std::mem::take(&mut lower.lir);
        let ports: Vec<(String, TensorType)> =
            self.inputs.iter().zip(inputs).map(|(i, s)| (i.name.clone(), s.ty.clone())).collect();
        let names: Vec<String> = self.outputs.iter().map(|o| o.name.clone()).collect();
        let plan = plan::build(&self.name, lir, ports, names, fused)?;
        Ok(Planned::Plan(Box::new(plan)))
    }

    fn check_inputs(&self, specs: &[InputSpec]) -> Result<()> {
        if specs.len() != self.inputs.len() {
            let names: Vec<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(Error::invalid_argument(format!(
                "{} inputs were given, the model has {}: '{}'",
                specs.len(),
                names.len(),
                names.join("', '")
            )));
        }
        let mut bound: Vec<(&str, usize, &str)> = Vec::new();
        for (spec, info) in specs.iter().zip(&self.inputs) {
            let place = |why: String| Error::invalid_argument(format!("input '{}': {why}", info.name));
            let declared = || match &info.dims {
                Some(dims) => dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "),
                None => "any shape".into(),
            };
            spec.ty.shape.checked_len().map_err(|e| place(e.to_string()))?;
            if let Some(dtype) = info.dtype
                && dtype != spec.ty.dtype
            {
                return Err(place(format!("{dtype} is needed, {} was given", spec.ty)));
            }
            if let Some(bytes) = &spec.value {
                if bytes.len() != spec.ty.bytes() {
                    return Err(place(format!(
                        "{} needs {} bytes, {} were given",
                        spec.ty,
                        spec.ty.bytes(),
                        bytes.len()
                    )));
                }
                if spec.ty.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
                    return Err(place("a bool is neither 0 nor 1".into()));
                }
            }
            let Some(dims) = &info.dims else { continue };
            if dims.len() != spec.ty.shape.rank() {
                return Err(place(format!(
                    "rank {} is needed ({}), {} was given",
                    dims.len(),
                    declared(),
                    spec.ty
                )));
            }
            for (axis, (dim, &len)) in dims.iter().zip(spec.ty.shape.iter()).enumerate() {
                match dim {
                    Dim::Fixed(n) if *n != len => {
                        return Err(place(format!(
                            "axis {axis} must have length {n}, {} was given",
                            spec.ty
                        )));
                    }
                    Dim::Symbol(s) => match bound.iter().find(|b| b.0 == s) {
                        Some(&(_, other, first)) if other != len => {
                            return Err(Error::invalid_argument(format!(
                                "dimension '{s}' is {other} in input '{first}' but {len} in input '{}'; they must agree",
                                info.name
                            )));
                        }
                        Some(_) => {}
                        None => bound.push((s, len, &info.name)),
                    },
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn info(i: &Interface, what: &str, input: bool) -> Result<InterfaceInfo> {
    let name = i.name.clone();
    match &i.ty {
        ValueType::Tensor { dtype: Some(dtype), dims, .. } => {
            Ok(InterfaceInfo { name, dtype: Some(*dtype), dims: dims.clone() })
        }
        ValueType::Tensor { dtype: None, code, dims } if !input && *code == 0 => {
            Ok(InterfaceInfo { name, dtype: None, dims: dims.clone() })
        }
        ValueType::Tensor { code, .. } => Err(Error::unsupported(format!(
            "{what} '{name}' has the element type {}, which is not supported",
            data_type::name(*code)
        ))),
        ValueType::Unknown if !input => Ok(InterfaceInfo { name, dtype: None, dims: None }),
        ValueType::Unknown => Err(Error::invalid_model(format!("{what} '{name}' has no type"))),
        ValueType::Other(kind) => {
            Err(Error::unsupported(format!("{what} '{name}' is {kind}; only tensors are supported")))
        }
    }
}
