// The gradient of a stage's map before the pool, in one pass over it (eq. 22), and eq. 4's sum of that:
//
//   max            map_gradient[n,h,w,k] = sum over the windows whose winner is (h, w) of grad_output * g'(output)
//   average, sum   map_gradient[n,h,w,k] = g'(o[n,h,w,k]) * sum over the windows around (h, w) of grad_output / divisor
//   no pool        the same with windows of one position
//
// Everything is channels_last. A thread owns the lanes of a few channels. It walks over tiles of pixels
// (cuda/pool2d/windows.h), gathers for each what its windows give to it, and adds up the bias's gradient of its
// channels along the way. Threads of a block that own the same channels stand side by side over neighbouring tiles. A
// block owns one part of the tiles, and the parts are added in order: no atomics, the same bits on every run. A slope
// is not rounded before it is summed. Bound: memory, as max_pool2d_grad_input_kernel's.
#include "cuda/elementwise/activation.cuh"
#include "cuda/machine/quotient.cuh"
#include "cuda/pool2d/choice.h"
#include "cuda/stage/launchers.h"

namespace tmc {
namespace {

// Which threads own what: a block has `lanes` vectors of channels side by side, and `rows` of them over tiles.
struct WorkSplit {
  int lanes, rows;
  int64_t lane_blocks, parts, part_tiles;  // of tiles that are counted without their channels
};

template <class T>
struct MapGradientArrays {
  const T *grad_output, *activated;
  const void* winners;
  T* map_gradient;
  accumulate_t<T>* bias_parts;  // [parts, c], or null
};

template <class T, class Lanes, class Windows>
struct MapGradientTile {
  using Problem = PoolProblem<typename Windows::Integer>;
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  static constexpr int kBlock = Windows::kBlock, kLanes = Lanes::kLanes;

  acc_t sum[kBlock][kBlock][kLanes] = {};

  // eq. 8 of the slopes, which are taken where the windows are.
  template <class W>
  __device__ void gather_winners(const Problem& problem, Activation activation, const PoolTile<Index>& at,
                                 const MapGradientArrays<T>& arrays) {
    const int64_t image = at.image * problem.output_image + at.channel;
    Windows::windows(problem.shape, at, [&](Index p, Index q, bool inside, Index top, Index left) {
      const int64_t place = image + problem.output_offset(p, q);
      const auto chosen = load<kLanes>(static_cast<const W*>(arrays.winners) + place);
      const auto gradients = load<kLanes>(arrays.grad_output + place);
      const auto o = activation == Activation::none ? gradients : load<kLanes>(arrays.activated + place);
      acc_t slopes[kLanes];
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane)
        slopes[lane] = activation_gradient(activation, static_cast<acc_t>(gradients.lanes[lane]),
                                           static_cast<acc_t>(o.lanes[lane]));
#pragma unroll
      for (int a = 0; a < kBlock; ++a)
#pragma unroll
        for (int b = 0; b < kBlock; ++b) {
          Index tap = Windows::tap_of(problem.shape, top + a, left + b);
          if (tap < 0) continue;
          if (!inside) tap = -1;
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane)
            if (chosen.lanes[lane] == tap) sum[a][b][lane] += slopes[lane];
        }
    });
  }

  // eq. 9, without the slope.
  __device__ void gather_averages(const Problem& problem, const AverageRule& rule, const PoolTile<Index>& at,
                                  const MapGradientArrays<T>& arrays) {
    const T* const image = arrays.grad_output + at.image * problem.output_image + at.channel;
    Windows::windows(problem.shape, at, [&](Index p, Index q, bool inside, Index top, Index left) {
      const auto gradients = load_or_zero<kLanes>(inside, image + problem.output_offset(p, q));
      const Quotient<T> quotient(average_divisor(Windows::known(problem.shape), rule, p, q));
      acc_t shares[kLanes];
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) shares[lane] = quotient.of(static_cast<acc_t>(gradients.lanes[lane]));
#pragma unroll
      for (int a = 0; a < kBlock; ++a)
#pragma unroll
        for (int b = 0; b < kBlock; ++b) {
          if (Windows::tap_of(problem.shape, top + a, left + b) < 0) continue;
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) sum[a][b][lane] += shares[lane];
        }
    });
  }

  // Rounds and stores what lies inside the map and adds it to the bias's sums; kSlopes: times the slope there.
  template <bool kSlopes>
  __device__ void store_tile(const Problem& problem, Activation activation, const PoolTile<Index>& at,
                             const MapGradientArrays<T>& arrays, acc_t (&bias)[kLanes]) const {
    const int64_t image = at.image * problem.input_image + at.channel;
    const Index top = Windows::first_pixel(problem.shape.h, at.row);
    const Index left = Windows::first_pixel(problem.shape.w, at.column);
#pragma unroll
    for (int a = 0; a < kBlock; ++a)
#pragma unroll
      for (int b = 0; b < kBlock; ++b) {
        if (!is_inside(top + a, problem.shape.h.in) || !is_inside(left + b, problem.shape.w.in)) continue;
        const int64_t place = image + problem.input_offset(top + a, left + b);
        Vector<T, kLanes> o = {}, rounded;
        if (kSlopes && activation != Activation::none) o = load<kLanes>(arrays.activated + place);
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) {
          acc_t value = sum[a][b][lane];
          if constexpr (kSlopes) value = activation_gradient(activation, value, static_cast<acc_t>(o.lanes[lane]));
          bias[lane] += value;
          rounded.lanes[lane] = static_cast<T>(value);
        }
        store(arrays.map_gradient + place, rounded);
      }
  }
};

// Blocks on a multiprocessor, which leave a thread 80 registers, or 128 for 64-bit indices.
constexpr int kBlocksWithNarrowIndices = 3;
template <class Windows>
constexpr int kMapGradientBlocks = sizeof(typename Windows::Index) == 8 ? 2 : kBlocksWithNarrowIndices;

// W: the type of the winners, or void for averages.
template <class T, class W, class Lanes, class Windows>
__global__ void __launch_bounds__(kElementThreads, kMapGradientBlocks<Windows>)
    map_gradient_kernel(const PoolProblem<typename Windows::Integer> problem, const WorkSplit split,
                        const Activation activation, const AverageRule rule, const MapGradientArrays<T> arrays) {
  using Index = typename Windows::Index;
  using acc_t = accumulate_t<T>;
  constexpr int kLanes = Lanes::kLanes;
  struct Sums {
    acc_t of[kElementThreads][kLanes];
  };
  const int64_t part = block_index() / split.lane_blocks;
  if (part >= split.parts) return;
  const int lane = threadIdx.x % split.lanes, row = threadIdx.x / split.lanes;
  const Index vectors = problem.vectors, tiles = problem.tiles / problem.vectors;
  const Index vector = static_cast<Index>(block_index() % split.lane_blocks * split.lanes) + lane;
  const Index begin = static_cast<Index>(part * split.part_tiles);
  const Index end = tiles - begin < split.part_tiles ? tiles : begin + static_cast<Index>(split.part_tiles);

  acc_t bias[kLanes] = {};
  if (vector < vectors)
    for (Index i = begin + row; i < end; i += split.rows) {
      const PoolTile<Index> at = tile_at<Lanes>(problem, i * vectors + vector);
      MapGradientTile<T, Lanes, Windows> tile;
      if constexpr (std::is_void_v<W>)
        tile.gather_averages(problem, rule, at, arrays);
      else
        tile.template gather_winners<W>(problem, activation, at, arrays);
      tile.template store_tile<std::is_void_v<W>>(problem, activation, at, arrays, bias);
    }

  if (arrays.bias_parts == nullptr) return;
  auto& sums = shared_memory<Sums>();
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sums.of[threadIdx.x][i] = bias[i];
  __syncthreads();
  if (row > 0 || vector >= vectors) return;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    acc_t sum = 0;
    for (int r = 0; r < split.rows; ++r) sum += sums.of[r * split.lanes + lane][i];
    arrays.bias_parts[part * problem.shape.c + vector * kLanes + i] = sum;
  }
}

// grad_bias[k] = sum over the parts. A block owns kSumLanes channels; each of its kSumRows rows of threads adds up
// every kSumRows-th part, then the first row adds up the rows: so the loads of a channel do not wait for each other.
constexpr int kSumLanes = 32, kSumRows = 16;
template <class T>
__global__ void __launch_bounds__(kSumLanes* kSumRows)
    sum_bias_parts_kernel(const accumulate_t<T>* bias_parts, int64_t parts, int64_t k, T* grad_bias) {
  struct Sums {
    accumulate_t<T> of[kSumRows][kSumLanes];
  };
  auto& sums = shared_memory<Sums>();
  const int lane = threadIdx.x % kSumLanes, row = threadIdx.x / kSumLanes;
  const int64_t channel = block_index() * kSumLanes + lane;
  accumulate_t<T> sum = 0;
  if (channel < k)
    for (int64_t part = row; part < parts; part += kSumRows) sum += bias_parts[part * k + channel];
  sums.of[row][lane] = sum;
  __syncthreads();
  if (row > 0 || channel >= k) return;
  for (int r = 1; r < kSumRows; ++r) sum += sums.of[r][lane];
  grad_bias[channel] = static_cast<T>(sum);
}

// Calls body(lanes, windows, problem): vectors of channels where they divide, and the usual windows fixed.
template <class T, class Body>
void choose_tiles(const PoolShape& shape, Body body) {
  const auto choose_windows = [&](auto lanes) {
    const auto fixed = [&](auto windows) {
      return decltype(windows)::fits(shape.h) && decltype(windows)::fits(shape.w) &&
             attempt<PoolResult::input>(shape, lanes, windows, body);
    };
    return fixed(FixedWindow<3, 2>{}) || fixed(FixedWindow<2, 2>{}) || fixed(FixedWindow<1, 1>{}) ||
           attempt<PoolResult::input>(shape, lanes, AnyWindow<Divisor>{}, body);
  };
  using Pixel = Channels<kVectorLanes<T>>;
  if (!(Pixel::fit(shape) && choose_windows(Pixel{}))) choose_plain<PoolResult::input>(shape, body);
}

// One wave of blocks. A thread should have a few tiles, or the parts cost more to add than to compute [estimate].
WorkSplit split_work(int64_t problem_tiles, int64_t vectors) {
  constexpr int64_t kMaxLanes = 32, kBlocksWanted = kBlocksWithNarrowIndices * kMultiprocessors, kMinTiles = 4;
  const int64_t tiles = problem_tiles / vectors;
  WorkSplit split;
  split.lane_blocks = ceil_div(vectors, kMaxLanes);
  split.lanes = static_cast<int>(ceil_div(vectors, split.lane_blocks));
  split.rows = static_cast<int>(kElementThreads) / split.lanes;
  const int64_t most = std::max<int64_t>(tiles / (split.rows * kMinTiles), 1);
  split.parts = std::min(ceil_div(kBlocksWanted, split.lane_blocks), most);
  split.part_tiles = ceil_div(tiles, split.parts);
  return split;
}

}  // namespace

int64_t conv_act_pool2d_map_gradient_workspace(DType dtype, const ConvActPool2dShape& shape) {
  int64_t bytes = 0;
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    choose_tiles<T>(shape.pool, [&](auto lanes, auto, const auto& problem) {
      const int64_t parts = split_work(problem.tiles, shape.pool.c / lanes.kChannels).parts;
      bytes = parts * shape.pool.c * int64_t{sizeof(accumulate_t<T>)};
    });
  });
  return bytes;
}

void launch_conv_act_pool2d_map_gradient(DType dtype, const ConvActPool2dShape& shape, const void* grad_output,
                                         const void* activated, const void* winners, void* workspace,
                                         void* map_gradient, void* grad_bias, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto* const bias_parts = grad_bias == nullptr ? nullptr : static_cast<accumulate_t<T>*>(workspace);
    const MapGradientArrays<T> arrays = {static_cast<const T*>(grad_output), static_cast<const T*>(activated), winners,
                                         static_cast<T*>(map_gradient), bias_parts};
    choose_tiles<T>(shape.pool, [&](auto lanes, auto windows, const auto& problem) {
      using Lanes = decltype(lanes);
      using Windows = decltype(windows);
      const WorkSplit split = split_work(problem.tiles, shape.pool.c / Lanes::kChannels);
      const auto run = [&](auto kernel) {
        launch(kernel, grid_of(split.parts * split.lane_blocks), split.lanes * split.rows, stream, problem, split,
               shape.activation, average_rule(shape), arrays);
      };
      if (shape.pooling != Pooling::max)
        run(map_gradient_kernel<T, void, Lanes, Windows>);
      else if (window_taps(shape.pool) <= kMaxByteTaps)
        run(map_gradient_kernel<T, uint8_t, Lanes, Windows>);
      else if constexpr (Windows::kBlock == 1)  // fixed windows are small
        run(map_gradient_kernel<T, int32_t, Lanes, Windows>);
      if (grad_bias != nullptr)
        launch(sum_bias_parts_kernel<T>, grid_of(ceil_div(shape.pool.c, kSumLanes)), kSumLanes * kSumRows, stream,
               bias_parts, split.parts, shape.pool.c, static_cast<T*>(grad_bias));
    });
  });
}

}  // namespace tmc
