//! One matrix product: how it is cut into tasks, blocks and tiles.

use streampool_core::op::DType;

use super::epilogue::{Epilogue, Rect};
use super::pack::{Source, pack_panel, pack_rows, row_stride, rows_collide};
use super::tile::{Kernels, Tile};
use crate::simd::Isa;
use crate::team::{LARGE_WORK, Team};

/// `f32` elements of a block of A that stay in the second-level cache while B streams by (512 KiB).
const BLOCK_A: usize = 128 * 1024;
/// `f32` elements of A that are packed at a time (4 MiB).
const SUPER_A: usize = 1024 * 1024;
/// `f32` elements of B that a task packs at a time (1 MiB).
const BLOCK_B: usize = 256 * 1024;
/// The longest stretch of k that a tile runs over before it stores its sums and goes on.
const BLOCK_K: usize = 2048;
/// Multiply-adds that one task should at least have when a product is split over cores (about 10 us).
const TASK_WORK: usize = 512 * 1024;
/// Multiply-adds, in the team's measure of time. With fewer rows than four each element of B that is fetched is used so few times that fetching
/// it takes longer than the arithmetic.
fn work(m: usize, n: usize, k: usize) -> usize {
    m.saturating_mul(n).saturating_mul(k).saturating_mul((4 / m.max(1)).max(1))
}

/// The most cores that work on one product: each needs scratch memory of its own.
pub(super) const MAX_MEMBERS: usize = 16;

/// Where B comes from.
pub(crate) enum B<'a> {
    /// Panels of the kernels' width, for all of n.
    Packed(*const f32),
    /// A view with unit column step, read where it lies. Only for products planned with [`Form::InPlace`].
    InPlace(Source),
    /// Packed as it is needed: `pack(q, to)` writes panel `q` of `k * width` elements.
    Panels(&'a (dyn Fn(usize, *mut f32) + Sync)),
}

/// How B is given, decided when the product is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// [`B::Packed`].
    Packed,
    /// [`B::InPlace`].
    InPlace,
    /// [`B::Panels`].
    Panels,
}

/// What the result's elements are and where they go.
pub(crate) struct Output<'a> {
    /// Element (0, 0).
    pub(crate) data: *mut f32,
    /// Elements from one row to the next.
    pub(crate) row: usize,
    /// Applied to the sums.
    pub(crate) end: Epilogue,
    /// If given, results are computed into scratch memory as plain sums and handed to it: (`row`, `col`) of the rectangle's corner, the
    /// rectangle, its rows and columns. `data` is not used then.
    pub(crate) sink: Option<&'a Sink<'a>>,
}

/// See [`Output::sink`].
pub(crate) type Sink<'a> = dyn Fn(usize, usize, Rect, usize, usize) + Sync + 'a;

/// A product of fixed shape, planned. Its tasks are rectangles of the result; a task goes through its rectangle in blocks of
/// rows that fit the cache.
#[derive(Clone)]
pub(crate) struct Product {
    kernels: &'static Kernels,
    m: usize,
    n: usize,
    k: usize,
    form: Form,
    /// Step between rows of packed A; none if A is read in place.
    a_row: Option<usize>,
    /// Rows of A that are packed at a time.
    super_rows: usize,
    /// Rows of a task.
    task_rows: usize,
    /// Rows whose A stays in the cache while a task's B streams by.
    block_rows: usize,
    /// Panels of a task.
    block_panels: usize,
    /// Whether results go through scratch memory.
    sunk: bool,
    /// Cores that may take part.
    members: usize,
}

/// Pointers that tasks share.
struct Shared<'a> {
    b: B<'a>,
    out: &'a Output<'a>,
    scratch: *mut f32,
}

// SAFETY: tasks write disjoint rectangles of the result and their own members' scratch memory; all else is read only during a
// phase (`Product::run`).
unsafe impl Sync for Shared<'_> {}

/// What a product is planned from.
pub(crate) struct Spec {
    pub(crate) isa: Isa,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Of A.
    pub(crate) a_dtype: DType,
    /// Steps of A.
    pub(crate) a_row: isize,
    pub(crate) a_col: isize,
    pub(crate) form: Form,
    /// Whether the output has a sink.
    pub(crate) sunk: bool,
    /// Whether the product may be split over cores.
    pub(crate) split: bool,
}

impl Product {
    /// Plans it.
    pub(crate) fn new(s: &Spec) -> Self {
        let kernels = Kernels::of(s.isa);
        let (m, n, k) = (s.m, s.n, s.k);
        let (width, max_rows) = (kernels.panel(), kernels.max_rows());
        let panels = n.div_ceil(width).max(1);
        let work = work(m, n, k);

        let unit = s.a_dtype == DType::F32 && (s.a_col == 1 || k == 1);
        // Reading A in place saves the copy; a copy pays if the rows collide and are read many times.
        let pack_a = !unit || (panels > 2 && m > 2 && rows_collide(m, s.a_row));
        let stride = row_stride(k);
        let whole_tiles = |rows: usize| (rows / max_rows).max(1) * max_rows;
        let super_rows = if pack_a { whole_tiles(SUPER_A / stride) } else { usize::MAX };
        let block_rows = whole_tiles(BLOCK_A / stride).min(super_rows);
        // A task that packs its own part of B takes all rows.
        let mut task_rows = if s.form == Form::Packed { block_rows } else { m.min(super_rows).max(1) };
        let mut block_panels = match s.form {
            Form::Packed => panels,
            // Each task packs its own part of B, or the remainder of it.
            Form::Panels | Form::InPlace => (BLOCK_B / (k * width).max(1)).clamp(1, panels),
        };
        let split = s.split && work >= LARGE_WORK;
        if split {
            // At most 64 tasks or so, none too small; first over n, where nothing is done twice. B's panels are taken in fours: the width of
            // the widest tile.
            let tasks = (work / TASK_WORK).clamp(1, 64);
            let blocks = m.min(super_rows).div_ceil(task_rows);
            let per_row_block = tasks.div_ceil(blocks);
            let few = panels.div_ceil(per_row_block);
            block_panels = block_panels.min(if m <= max_rows { few.next_multiple_of(4) } else { few });
            if blocks * panels.div_ceil(block_panels) < 8 && m > max_rows {
                task_rows = task_rows.min(whole_tiles(m.div_ceil(8)));
            }
        }
        if s.sunk {
            // The task's results lie in scratch memory.
            block_panels = block_panels.min((BLOCK_A / (task_rows.min(m) * width).max(1)).max(1));
        }
        let members = if split {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_MEMBERS)
        } else {
            1
        };
        Self {
            kernels,
            m,
            n,
            k,
            form: s.form,
            a_row: pack_a.then_some(stride),
            super_rows,
            task_rows,
            block_rows,
            block_panels,
            sunk: s.sunk,
            members,
        }
    }

    /// `"14x32 avx512"`, and how A and B are read.
    pub(crate) fn describe(&self) -> String {
        let rows = self.m.div_ceil(self.m.div_ceil(self.kernels.max_rows()).max(1)).max(1);
        let width = self.kernels.lanes << self.kernels.widest(rows);
        let a = if self.a_row.is_some() { "a packed each run" } else { "a in place" };
        let b = match self.form {
            Form::Packed => "b packed",
            Form::InPlace => "b in place",
            Form::Panels => "b packed each run",
        };
        format!("{rows}x{width} {}, {a}, {b}", self.kernels.isa.name())
    }

    /// Columns of a panel of B.
    pub(crate) fn width(&self) -> usize {
        self.kernels.panel()
    }

    /// Elements of shared scratch memory: the packed part of A.
    fn a_scratch(&self) -> usize {
        self.a_row.map_or(0, |row| self.super_rows.min(self.m) * row)
    }

    /// Elements of scratch memory that a member packs B into.
    fn b_scratch(&self) -> usize {
        match self.form {
            Form::Packed => 0,
            Form::InPlace => self.k * self.width(),
            Form::Panels => self.block_panels * self.k * self.width(),
        }
    }

    /// Elements of scratch memory that a member computes into.
    fn c_scratch(&self) -> usize {
        if self.sunk { self.task_rows.min(self.m) * self.block_panels * self.width() } else { 0 }
    }

    /// Bytes of scratch memory of a run.
    pub(crate) fn scratch_bytes(&self) -> usize {
        (self.a_scratch() + self.members * (self.b_scratch() + self.c_scratch()).next_multiple_of(16)) * 4
    }

    /// See [`work`].
    pub(crate) fn work(&self) -> usize {
        work(self.m, self.n, self.k)
    }

    /// Computes it.
    ///
    /// # Safety
    /// Sources and output are valid for the planned shape, form and steps; `scratch` for [`Product::scratch_bytes`], aligned to 64; nobody else
    /// writes any of them, and the output overlaps nothing that is read but an addend at the same address.
    #[inline]
    pub(crate) unsafe fn run(&self, a: Source, b: B<'_>, out: &Output<'_>, scratch: *mut f32, team: &Team) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        let panels = self.n.div_ceil(self.width());
        let shared = Shared { b, out, scratch };
        if self.a_row.is_none() && self.m <= self.task_rows && panels <= self.block_panels {
            // SAFETY: the caller's contract, and the only member.
            return unsafe { self.task(&shared, a, 0, 0..self.m, 0..panels, 0) };
        }
        let mut first = 0;
        while first < self.m {
            let rows = self.super_rows.min(self.m - first);
            let mut block_a = a;
            // SAFETY: `first` is a row of A.
            let from = unsafe { a.at(first, 0) };
            if let Some(to_row) = self.a_row {
                // One tile's height a task.
                let step = self.kernels.max_rows();
                let shared = &shared;
                team.run(rows.div_ceil(step), if self.members > 1 { rows * self.k } else { 0 }, &|i| {
                    let (r0, r1) = (i * step, ((i + 1) * step).min(rows));
                    // SAFETY: rows `r0..r1` of the packed part are this task's alone.
                    unsafe {
                        pack_rows(from.at(r0, 0), r1 - r0, self.k, shared.scratch.add(r0 * to_row), to_row)
                    };
                });
                block_a = Source {
                    data: scratch.cast_const().cast(),
                    dtype: DType::F32,
                    row: to_row as isize,
                    col: 1,
                };
            } else {
                block_a = Source { data: from.data, ..block_a };
            }
            let row_blocks = rows.div_ceil(self.task_rows);
            let column_blocks = panels.div_ceil(self.block_panels);
            let work = if self.members > 1 { self.work() / self.m * rows } else { 0 };
            let shared = &shared;
            team.run_members(row_blocks * column_blocks, work, self.members, &|i, member| {
                // Tasks that follow each other share a block of A.
                let (rb, cb) = (i / column_blocks, i % column_blocks);
                let r0 = rb * self.task_rows;
                let q0 = cb * self.block_panels;
                let task_rows = r0..(r0 + self.task_rows).min(rows);
                // SAFETY: the rectangle is this task's alone, the member's scratch memory this thread's.
                unsafe {
                    self.task(
                        shared,
                        block_a,
                        first,
                        task_rows,
                        q0..(q0 + self.block_panels).min(panels),
                        member,
                    );
                }
            });
            first += rows;
        }
    }

    /// One rectangle of the result: `rows` of `a`, whose row 0 is row `first` of the result.
    ///
    /// # Safety
    /// As [`Product::run`]; nobody else uses the rectangle or the member's scratch memory.
    unsafe fn task(
        &self,
        shared: &Shared<'_>,
        a: Source,
        first: usize,
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        member: usize,
    ) {
        let width = self.width();
        let n = (panels.end * width).min(self.n) - panels.start * width;
        let (row, col) = (first + rows.start, panels.start * width);
        // SAFETY: all positions are inside the shapes that the caller vouches for; scratch areas do not overlap by their sizes.
        unsafe {
            let own = shared
                .scratch
                .add(self.a_scratch() + member * (self.b_scratch() + self.c_scratch()).next_multiple_of(16));
            let a = a.at(rows.start, 0);
            let mut whole = Block {
                m: rows.len(),
                n,
                k: self.k,
                a: a.data.cast(),
                a_row: a.row,
                b: own,
                b_step: width as isize,
                b_panel: (self.k * width) as isize,
                c: shared.out.data,
                c_row: shared.out.row,
                end: Epilogue::NONE,
            };
            if self.sunk {
                whole.c = own.add(self.b_scratch());
                whole.c_row = panels.len() * width;
            } else {
                whole.c = whole.c.add(row * whole.c_row + col);
                whole.end = shared.out.end.at(row, col);
            }
            match shared.b {
                B::Packed(b) => {
                    whole.b = b.add(panels.start * self.k * width);
                    self.blocks(&whole);
                }
                B::Panels(pack) => {
                    for q in panels.clone() {
                        pack(q, own.add((q - panels.start) * self.k * width));
                    }
                    self.blocks(&whole);
                }
                B::InPlace(b) => {
                    // Whole panels where they lie; the rest, which a kernel would read beyond, packed.
                    let rest = n % width;
                    if n > rest {
                        let b = b.at(0, col);
                        let part = Block {
                            n: n - rest,
                            b: b.data.cast(),
                            b_step: b.row,
                            b_panel: width as isize,
                            ..whole
                        };
                        self.blocks(&part);
                    }
                    if rest > 0 {
                        let done = n - rest;
                        pack_panel(b.at(0, col + done), self.k, rest, width, own);
                        let end = whole.end.at(0, done);
                        self.blocks(&Block { n: rest, c: whole.c.add(done), end, ..whole });
                    }
                }
            }
            if let Some(sink) = shared.out.sink {
                sink(row, col, Rect { data: whole.c, row: whole.c_row }, rows.len(), n);
            }
        }
    }

    /// `whole`, one block of rows after the other.
    ///
    /// # Safety
    /// As [`Block::run`].
    unsafe fn blocks(&self, whole: &Block) {
        let mut row = 0;
        while row < whole.m {
            let m = self.block_rows.min(whole.m - row);
            // SAFETY: the rows are inside the block.
            unsafe {
                let block = Block {
                    m,
                    a: whole.a.offset(row as isize * whole.a_row),
                    c: whole.c.add(row * whole.c_row),
                    end: whole.end.at(row, 0),
                    ..*whole
                };
                block.run(self.kernels);
            }
            row += m;
        }
    }
}

/// A product that one core computes at once: A in rows with unit step, B in panels.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) a_row: isize,
    pub(crate) b: *const f32,
    /// From one step along k to the next, and from one panel to the next.
    pub(crate) b_step: isize,
    pub(crate) b_panel: isize,
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// At this block's corner.
    pub(crate) end: Epilogue,
}

/// A part of the sums.
struct Stretch {
    k0: usize,
    k: usize,
    /// Go on with the sums that lie in C.
    resume: bool,
    /// No more follows.
    last: bool,
}

impl Block {
    /// Computes it.
    ///
    /// # Safety
    /// The pointers are valid for the shape (B over whole panels).
    pub(crate) unsafe fn run(&self, kernels: &Kernels) {
        // SAFETY: passed on from the caller.
        unsafe { self.sums(kernels, false) }
    }

    /// Goes on with the sums that lie in C.
    ///
    /// # Safety
    /// As [`Block::run`].
    pub(crate) unsafe fn resume(&self, kernels: &Kernels) {
        // SAFETY: passed on from the caller.
        unsafe { self.sums(kernels, true) }
    }

    /// # Safety
    /// As [`Block::run`].
    unsafe fn sums(&self, kernels: &Kernels, mut resume: bool) {
        let tiles = self.m.div_ceil(kernels.max_rows());
        // Stretches of k of equal length.
        let stretch = self.k.div_ceil(self.k.div_ceil(BLOCK_K).max(1));
        let mut k0 = 0;
        loop {
            let k = stretch.min(self.k - k0);
            let stretch = Stretch { k0, k, resume, last: k0 + k == self.k };
            // SAFETY: the caller vouches for the whole shape; every tile is inside it.
            unsafe {
                if tiles <= 1 {
                    self.wide_row(kernels, &stretch);
                } else {
                    self.panels(kernels, tiles, &stretch);
                }
            }
            if stretch.last {
                return;
            }
            k0 += k;
            resume = true;
        }
    }

    /// All rows in one tile, as wide as they allow.
    ///
    /// # Safety
    /// As [`Block::run`].
    unsafe fn wide_row(&self, kernels: &Kernels, stretch: &Stretch) {
        let mut col = 0;
        let mut log = kernels.widest(self.m);
        while col < self.n {
            let left = self.n - col;
            // Only as wide as there are panels; half a panel is the narrowest.
            let panels = left.div_ceil(kernels.panel());
            while log > 1 && panels < 1 << (log - 1) {
                log -= 1;
            }
            if left <= kernels.lanes {
                log = 0;
            }
            let cols = left.min(kernels.lanes << log);
            // SAFETY: the tile is inside the block, and so are all its panels.
            unsafe { self.tile(kernels, 0..self.m, col, cols, log, stretch) };
            col += cols;
        }
    }

    /// Panel by panel, each against all rows while it is in the cache.
    ///
    /// # Safety
    /// As [`Block::run`].
    unsafe fn panels(&self, kernels: &Kernels, tiles: usize, stretch: &Stretch) {
        let (rows, more) = (self.m / tiles, self.m % tiles);
        let mut col = 0;
        while col < self.n {
            let cols = (self.n - col).min(kernels.panel());
            let log = usize::from(cols > kernels.lanes);
            let mut r0 = 0;
            for t in 0..tiles {
                let r1 = r0 + rows + usize::from(t < more);
                // SAFETY: the tile is inside the block.
                unsafe { self.tile(kernels, r0..r1, col, cols, log, stretch) };
                r0 = r1;
            }
            col += cols;
        }
    }

    /// One tile.
    ///
    /// # Safety
    /// As [`Block::run`]; the tile is inside the block, and B has panels over the tile's whole width.
    #[inline]
    unsafe fn tile(
        &self,
        kernels: &Kernels,
        rows: std::ops::Range<usize>,
        col: usize,
        cols: usize,
        log: usize,
        &Stretch { k0, k, resume, last }: &Stretch,
    ) {
        // SAFETY: the offsets are inside what the caller vouches for.
        unsafe {
            let end = self.end.at(rows.start, col);
            let tile = Tile {
                k,
                a: self.a.offset(rows.start as isize * self.a_row).add(k0),
                a_row: self.a_row,
                b: self.b.offset((col / kernels.panel()) as isize * self.b_panel + k0 as isize * self.b_step),
                b_step: self.b_step,
                b_panel: self.b_panel,
                c: self.c.add(rows.start * self.c_row + col),
                c_row: self.c_row,
                cols,
                resume,
                end: last.then_some(&end),
            };
            kernels.tile(rows.len(), log)(&tile);
        }
    }
}
