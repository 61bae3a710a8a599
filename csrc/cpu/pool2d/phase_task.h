// A task of pooling in phases (cpu/pool2d/phases.h): its images in scratch memory, and the rows that go there and back.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/rows.h"

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

// The processor does not read ahead of rows that are taken one part at a time.
constexpr int64_t kReadAhead = 4096;
template <class T>
inline void read_ahead(const T* row, int64_t size) {
  for (int64_t x = 0; x < size; x += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(row + kReadAhead / sizeof(T) + x, 0, 2);
}

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
        read_ahead(from, row_size);
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
    const Range h_range = input_rows();
    const int64_t share = ceil_div(h_range.size() * row_phases.width, height);
    for (int64_t plane = 0; plane < part.planes; ++plane)
      for (int64_t i = 0; i < height; ++i) {
        const T* to = static_cast<const T*>(plan.result) + input_row(plane, h_range.begin) + i * share;
        for (int64_t x = 0; x < share; x += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(to + x, 1);
        const int64_t p = part.rows.begin - rows.reach + i, lane = lane_of(plane, i);
        const bool exists = p >= 0 && p < shape.h.out;
        if (exists) {
          read_ahead(static_cast<const T*>(plan.source) + output_row(plane, p), width);
          body(lane, p, output_row(plane, p));
        }
        const int64_t loaded = exists ? width : 0;
        fill(image(0) + lane + loaded, images.pitch - loaded, Real(0));
      }
  }

  // The gradient, from the outputs in image 0: collect(taps, count, result, lanes) computes one phase.
  template <class F>
  void write_gradient(F collect) const {
    const Range computed{rows.reach * images.pitch, lanes};
    for (int64_t j = 0; j < rows.phases; ++j)
      for (int64_t k = 0; k < columns.phases; ++k)
        collect(taps, list_taps_of(j, k), image(2 + j * columns.phases + k), computed);
    with_moves([&]<RowMoves kMoves>() { merge_rows<kMoves>(); });
  }
  template <RowMoves kMoves>
  KERNEL void merge_rows() const {
    const PhaseRows<Real> merge = row_phases;
    const int64_t phases = rows.phases, next_phase = columns.phases * images.distance;
    const int64_t first = part.rows.begin * phases - shape.h.pad;
    const Range h_range = input_rows();
    for (int64_t plane = 0; plane < part.planes; ++plane) {
      const Real* from = image(2) + lane_of(plane, rows.reach);
      T* to = static_cast<T*>(plan.result) + input_row(plane, h_range.begin);
      for (int64_t h = h_range.begin; h < h_range.end; ++h, to += merge.width)
        merge.template merge<kMoves>(from + (h - first) % phases * next_phase + (h - first) / phases * images.pitch,
                                     to);
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
  // The rows of the input that a gradient's part has.
  Range input_rows() const {
    const int64_t first = part.rows.begin * rows.phases - shape.h.pad, past = first + part.rows.size() * rows.phases;
    return {first > 0 ? first : 0, past < shape.h.in ? past : shape.h.in};
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

}  // namespace
}  // namespace tmc
