// Pooling in phases: for windows that slide by a stride of at most kMaxPhases.
//
// Padded input position i * stride + j of an axis is entry i of phase j. Tap t of output i is then entry
// i + t * dilation / stride of phase t * dilation % stride: for every output at the same distance from the output's own
// entry. With rows and columns split so, planes become stride_h * stride_w images of one size that lie one after the
// other in cache, padding included, and a kernel is one flat loop: lane x of the result takes lanes x + distance(tap).
// Nothing is left of edges, strides and short rows; what is computed between the rows is not copied out.
// Bound: memory.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "pool2d_rows.h"

namespace tmc {
namespace {

// A tap as the flat loops see it.
template <class Real>
struct PhaseTap {
  int64_t distance;      // in elements of scratch memory
  Integer<Real> winner;  // its offset in the window
  bool starts_row;       // of the window
};
static_assert(sizeof(PhaseTap<double>) <= kPhaseTapBytes);

constexpr int64_t kUnrolled = 4;  // vectors in flight: a comparison and a selection wait for each other 6 cycles
static_assert(kUnrolled * kVectorBytes / 4 <= kPhaseSlack);

// eq. 6 for lanes [0, size). The result takes the place of the first image, whose lanes up to x are no longer needed.
template <class Real, class Winner>
KERNEL void max_lanes(const PhaseTap<Real>* taps, int64_t count, Real* images, Winner* winners, int64_t size) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = 0; x < size; x += kUnrolled * kCount) {
    Lanes<Real> best[kUnrolled];
    IntegerLanes<Real> winner[kUnrolled];
    for (int v = 0; v < kUnrolled; ++v) {
      best[v] = Lanes<Real>{} - static_cast<Real>(__builtin_inf());
      winner[v] = IntegerLanes<Real>{};
    }
    for (int64_t t = 0; t < count; ++t) {
      const Real* from = images + taps[t].distance + x;
      const IntegerLanes<Real> index = IntegerLanes<Real>{} + taps[t].winner;
      for (int v = 0; v < kUnrolled; ++v) take_if_beats<Real>(load(from + v * kCount), index, best[v], winner[v]);
    }
    for (int v = 0; v < kUnrolled; ++v) {
      store(best[v], images + x + v * kCount);
      store_winners<Real>(winner[v], winners + x + v * kCount, kCount);
    }
  }
}

// The sums of eq. 7, in the place of the first image. Rows are summed first: short chains of sums round less.
template <class Real>
KERNEL void sum_lanes(const PhaseTap<Real>* taps, int64_t count, Real* images, int64_t size) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = 0; x < size; x += kUnrolled * kCount) {
    Lanes<Real> sum[kUnrolled] = {}, row_sum[kUnrolled] = {};
    for (int64_t t = 0; t < count; ++t) {
      if (taps[t].starts_row)
        for (int v = 0; v < kUnrolled; ++v) {
          sum[v] += row_sum[v];
          row_sum[v] = Lanes<Real>{};
        }
      for (int v = 0; v < kUnrolled; ++v) row_sum[v] += load(images + taps[t].distance + x + v * kCount);
    }
    for (int v = 0; v < kUnrolled; ++v) store(sum[v] + row_sum[v], images + x + v * kCount);
  }
}

// eq. 9 for one phase of the input: lane x of its gradient collects the lanes of the outputs that cover it.
template <class Real>
KERNEL void collect_lanes(const PhaseTap<Real>* taps, int64_t count, const Real* quotients, Real* result, Range lanes) {
  constexpr int64_t kCount = kLanes<Real>;
  for (int64_t x = lanes.begin; x < lanes.end; x += kUnrolled * kCount) {
    Lanes<Real> sum[kUnrolled] = {};
    for (int64_t t = 0; t < count; ++t)
      for (int v = 0; v < kUnrolled; ++v) sum[v] += load(quotients + x + v * kCount - taps[t].distance);
    for (int v = 0; v < kUnrolled; ++v) store(sum[v], result + x + v * kCount);
  }
}

// The processor does not read ahead of rows that are taken one part at a time.
constexpr int64_t kReadAhead = 4096;

// ---- The tasks: which lanes, from and to which rows of the tensors.

template <class T>
class PhaseTask {
 public:
  using Real = accumulate_t<T>;

  PhaseTask(const PoolPlan& plan, int64_t task, char* scratch)
      : plan(plan),
        shape(plan.shape),
        rows(plan.phase_rows),
        columns(plan.phase_columns),
        part(part_of(plan, task)),
        images(phase_images(plan)),
        inner(images.inner),
        width(shape.w.out * inner),
        height(part.rows.size() + rows.reach),
        lanes(part.planes * height * images.pitch),
        row_phases(shape.w, columns, inner, images.pitch, images.distance),
        taps(reinterpret_cast<PhaseTap<Real>*>(scratch)),
        memory(reinterpret_cast<Real*>(scratch + phase_tap_bytes(shape)) + images.lead) {}

  const PoolPlan& plan;
  const PoolShape& shape;
  const PhaseAxis &rows, &columns;
  const PoolPart part;
  const PhaseImages images;
  const int64_t inner, width;   // of a row of outputs, in elements
  const int64_t height, lanes;  // rows of a plane, elements of an image
  const PhaseRows<Real> row_phases;
  PhaseTap<Real>* const taps;
  Real* const memory;

  Real* image(int64_t index) const { return memory + index * images.distance; }
  int64_t lane_of(int64_t plane, int64_t row) const { return (plane * height + row) * images.pitch; }

  // The taps of every window, in order.
  int64_t list_taps() const {
    int64_t count = 0;
    for (int64_t r = 0; r < shape.h.kernel; ++r)
      for (int64_t s = 0; s < shape.w.kernel; ++s) {
        const int64_t h = r * shape.h.dilation, w = s * shape.w.dilation;
        const int64_t phase = h % rows.phases * columns.phases + w % columns.phases;
        taps[count++] = {phase * images.distance + lanes_between(h, w),
                         static_cast<Integer<Real>>(winner_of(shape, r, s)), s == 0};
      }
    return count;
  }

  // Those that read phase (j, k), in the order of their outputs: the last tap belongs to the first output.
  int64_t list_taps_of(int64_t j, int64_t k) const {
    int64_t count = 0;
    for (int64_t r = shape.h.kernel - 1; r >= 0; --r)
      for (int64_t s = shape.w.kernel - 1; s >= 0; --s) {
        const int64_t h = r * shape.h.dilation, w = s * shape.w.dilation;
        if (h % rows.phases == j && w % columns.phases == k)
          taps[count++] = {lanes_between(h, w), static_cast<Integer<Real>>(winner_of(shape, r, s)), s == 0};
      }
    return count;
  }

  void split_input(Real padding) const {
    with_moves([&]<RowMoves kMoves>() { split_input<kMoves>(padding); });
  }
  template <RowMoves kMoves>
  KERNEL void split_input(Real padding) const {
    const PhaseRows<Real> split = row_phases;  // a copy that nothing written here can be thought to change
    const int64_t row_size = split.width, phases = rows.phases, in = shape.h.in, pitch = images.pitch;
    const int64_t next_phase = columns.phases * images.distance, next_entry = pitch - (phases - 1) * next_phase;
    const T* const source = static_cast<const T*>(plan.source);
    const T* const last = source + plan.planes * in * row_size;
    const int64_t first = part.rows.begin * phases - shape.h.pad, past = first + height * phases;
    for (int64_t plane = 0; plane < part.planes; ++plane) {
      Real* to = image(0) + lane_of(plane, 0);
      int64_t h = first, j = 0;
      const auto next = [&] {
        ++h;
        to += ++j < phases ? next_phase : next_entry;
        if (j == phases) j = 0;
      };
      for (; h < 0; next()) split.pad(to, padding);
      const T* from = source + input_row(plane, h);
      for (const int64_t stop = past < in ? past : in; h < stop; next(), from += row_size) {
        for (int64_t x = 0; x < row_size; x += 64 / static_cast<int64_t>(sizeof(T)))
          __builtin_prefetch(from + kReadAhead / sizeof(T) + x, 0, 2);
        split.template split<kMoves>(from, last, to, padding);
      }
      for (; h < past; next()) split.pad(to, padding);
    }
  }

  // body(lane, p, place) for each row of outputs: where it stands in scratch memory and in the tensors.
  template <class F>
  void for_outputs(F body) const {
    for (int64_t plane = 0; plane < part.planes; ++plane)
      for (int64_t p = part.rows.begin; p < part.rows.end; ++p)
        body(lane_of(plane, p - part.rows.begin), p, output_row(plane, p));
  }

  // The same for the outputs that cover the part, with zeros around them in image 0.
  template <class F>
  void load_outputs(F body) const {
    fill(image(0) - images.lead, images.lead, Real(0));
    for (int64_t plane = 0; plane < part.planes; ++plane)
      for (int64_t i = 0; i < height; ++i) {
        const int64_t p = part.rows.begin - rows.reach + i, lane = lane_of(plane, i);
        const bool exists = p >= 0 && p < shape.h.out;
        if (exists) body(lane, p, output_row(plane, p));
        const int64_t loaded = exists ? width : 0;
        fill(image(0) + lane + loaded, images.pitch - loaded, Real(0));
      }
  }

  // From the quotients in image 0 to the rows of grad_input.
  void write_gradient() const {
    const Range computed{rows.reach * images.pitch, lanes};
    for (int64_t j = 0; j < rows.phases; ++j) {
      for (int64_t k = 0; k < columns.phases; ++k)
        collect_lanes(taps, list_taps_of(j, k), image(0), image(2 + k), computed);
      with_moves([&]<RowMoves kMoves>() { merge_rows<kMoves>(j); });
    }
  }
  template <RowMoves kMoves>
  KERNEL void merge_rows(int64_t j) const {
    const PhaseRows<Real> merge = row_phases;
    const int64_t pitch = images.pitch, row_step = rows.phases * merge.width;
    for (int64_t plane = 0; plane < part.planes; ++plane) {
      const Real* from = image(2) + lane_of(plane, rows.reach);
      int64_t h = part.rows.begin * rows.phases + j - shape.h.pad;
      T* to = static_cast<T*>(plan.result) + input_row(plane, h);
      for (int64_t i = 0; i < part.rows.size(); ++i, h += rows.phases, from += pitch, to += row_step)
        if (h >= 0 && h < shape.h.in) merge.template merge<kMoves>(from, to);
    }
  }

 private:
  template <class F>
  void with_moves(F body) const {
    if (row_phases.moves == RowMoves::one_phase) {
      body.template operator()<RowMoves::one_phase>();
    } else if (row_phases.moves == RowMoves::two_phases) {
      body.template operator()<RowMoves::two_phases>();
    } else {
      body.template operator()<RowMoves::general>();
    }
  }
  // From an output to the position (h, w) of its window, in whatever phase that is.
  int64_t lanes_between(int64_t h, int64_t w) const {
    return h / rows.phases * images.pitch + w / columns.phases * inner;
  }
  int64_t input_row(int64_t plane, int64_t h) const {
    return ((part.first_plane + plane) * shape.h.in + h) * shape.w.in * inner;
  }
  int64_t output_row(int64_t plane, int64_t p) const { return ((part.first_plane + plane) * shape.h.out + p) * width; }
};

template <class T, class Winner>
void max_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  constexpr Real kLeast = -static_cast<Real>(__builtin_inf());
  const PhaseTask<T> task(plan, number, scratch);
  Real* outputs = task.image(0);
  Winner* winners = reinterpret_cast<Winner*>(task.image(task.rows.phases * task.columns.phases));
  task.split_input(kLeast);
  max_lanes(task.taps, task.list_taps(), outputs, winners, task.lanes);
  int64_t clipped = 0;  // outputs of a row whose windows begin in the padding
  while (clipped < plan.shape.w.out && plan.columns[clipped].begin > 0) ++clipped;
  task.for_outputs([&](int64_t lane, int64_t p, int64_t place) {
    // Where nothing beats -inf, the winner is the first tap inside the input.
    const int64_t begin = plan.rows[p].begin, suspects = begin > 0 ? task.width : clipped * task.inner;
    for (int64_t x = 0; x < suspects; ++x)
      if (outputs[lane + x] == kLeast)
        winners[lane + x] = static_cast<Winner>(winner_of(plan.shape, begin, plan.columns[x / task.inner].begin));
    narrow_row(outputs + lane, static_cast<T*>(plan.result) + place, task.width);
    copy_winners(winners + lane, static_cast<Winner*>(plan.winners) + place, task.width);
  });
}

template <class T>
void average_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  const PhaseTask<T> task(plan, number, scratch);
  Real* sums = task.image(0);
  Real* divisors = task.image(task.rows.phases * task.columns.phases);
  task.split_input(0);
  sum_lanes(task.taps, task.list_taps(), sums, task.lanes);
  list_divisors(plan, task.inner, divisors);
  task.for_outputs([&](int64_t lane, int64_t p, int64_t place) {
    divide_row(sums + lane, static_cast<Real>(plan.row_divisors[p]), divisors, static_cast<T*>(plan.result) + place,
               task.width);
  });
}

template <class T>
void average_gradient_in_phases(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  const PhaseTask<T> task(plan, number, scratch);
  Real* divisors = task.image(1);
  list_divisors(plan, task.inner, divisors);
  task.load_outputs([&](int64_t lane, int64_t p, int64_t place) {
    divide_row(static_cast<const T*>(plan.source) + place, static_cast<Real>(plan.row_divisors[p]), divisors,
               task.image(0) + lane, task.width);
  });
  task.write_gradient();
}

}  // namespace
}  // namespace tmc
