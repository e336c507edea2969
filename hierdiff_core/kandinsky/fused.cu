// Group normalisation for activations that are channels last (rows, positions, channels), and what comes beside it,
// in as few passes over memory as it takes. Sums are in float32 and in a fixed order: the same inputs give the same bits,
// and a row's result does not depend on the rows beside it.
//
// Compiled at run time by NVRTC, with these defined:
//   WIDTH     channels that a thread reads at once; divides the channels of a group
//   BFLOAT16  1 for bfloat16, 0 for float16
// Where there are two inputs, they are the first and the last channels of one that is not put together in memory.

typedef unsigned short number;

struct alignas(2 * WIDTH) Numbers {
    number of[WIDTH];
};

__device__ __forceinline__ float to_float(number x) {
#if BFLOAT16
    return __uint_as_float((unsigned int)x << 16);
#else
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
#endif
}

__device__ __forceinline__ number to_number(float x) {
#if BFLOAT16
    unsigned int bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN
    return (number)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#else
    number y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
#endif
}

// The first channel that a thread reads, in whichever input it lies.
struct Place {
    const number *at;
    int stride;
};

__device__ __forceinline__ Place place(const number *a, const number *b, int ca, int cb, int positions, int channel) {
    const size_t row = blockIdx.y;
    if (channel < ca) return {a + row * positions * ca + channel, ca};
    return {b + row * positions * cb + (channel - ca), cb};
}

// A number near the group's others: sums of differences from it lose no digits where the mean is large.
__device__ __forceinline__ float pivot(
    const number *a, const number *b, const number *bias, int ca, int cb, int positions, int channel) {
    const float value = to_float(*place(a, b, ca, cb, positions, channel).at);
    return bias ? value + to_float(bias[channel]) : value;
}

// Sums of differences from the pivot and of their squares, for each group of a row, over one chunk of its positions.
// Grid (chunks, rows); block: channels / WIDTH threads for one position, times as many positions at once; shared: two
// floats for each thread. moments: (rows, chunks, groups, 2).
extern "C" __global__ void __launch_bounds__(1024) group_moments(
    const number *a, const number *b, const number *bias, float *moments,
    int ca, int cb, int positions, int chunk, int groups) {
    extern __shared__ float shared[];
    const int wide = (ca + cb) / WIDTH, at_once = blockDim.x / wide;
    const int v = threadIdx.x % wide, channel = v * WIDTH, each = wide / groups;
    const float middle = pivot(a, b, bias, ca, cb, positions, v / each * each * WIDTH);
    const Place from = place(a, b, ca, cb, positions, channel);
    float less[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) less[i] = middle - (bias ? to_float(bias[channel + i]) : 0.0f);
    float sum = 0.0f, squares = 0.0f;
    const int begin = blockIdx.x * chunk, end = min(begin + chunk, positions);
#pragma unroll 4
    for (int p = begin + threadIdx.x / wide; p < end; p += at_once) {
        const Numbers x = *(const Numbers *)(from.at + (size_t)p * from.stride);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            const float d = to_float(x.of[i]) - less[i];
            sum += d;
            squares += d * d;
        }
    }
    shared[threadIdx.x] = sum;
    shared[blockDim.x + threadIdx.x] = squares;
    __syncthreads();
    if (threadIdx.x < wide) {
        for (int r = 1; r < at_once; ++r) {
            sum += shared[threadIdx.x + r * wide];
            squares += shared[blockDim.x + threadIdx.x + r * wide];
        }
        shared[threadIdx.x] = sum;
        shared[blockDim.x + threadIdx.x] = squares;
    }
    __syncthreads();
    if (threadIdx.x < groups) {
        sum = squares = 0.0f;
        for (int i = 0; i < each; ++i) {
            sum += shared[threadIdx.x * each + i];
            squares += shared[blockDim.x + threadIdx.x * each + i];
        }
        float *to = moments + (((size_t)blockIdx.y * gridDim.x + blockIdx.x) * groups + threadIdx.x) * 2;
        to[0] = sum;
        to[1] = squares;
    }
}

// What a thread multiplies its channels with, and adds to them, so that their groups are normalised; the same block and
// shared memory as in `group_apply`.
struct Affine {
    float factor[WIDTH], add[WIDTH];
};

__device__ Affine normalising(
    const number *a, const number *b, const number *bias, const float *moments, const number *weight,
    const number *offset, int ca, int cb, int positions, int groups, float epsilon) {
    extern __shared__ float shared[];
    const int wide = (ca + cb) / WIDTH, v = threadIdx.x % wide, each = wide / groups;
    float *means = shared, *inverses = shared + groups, *parts = shared + 2 * groups;
    const int lanes = min((int)blockDim.x / groups, 32), lane = threadIdx.x / groups, mine = threadIdx.x % groups;
    if (lane < lanes) {
        float sum = 0.0f, squares = 0.0f;
        for (int i = lane; i < gridDim.x; i += lanes) {
            const float *from = moments + (((size_t)blockIdx.y * gridDim.x + i) * groups + mine) * 2;
            sum += from[0];
            squares += from[1];
        }
        parts[(lane * groups + mine) * 2] = sum;
        parts[(lane * groups + mine) * 2 + 1] = squares;
    }
    __syncthreads();
    if (threadIdx.x < groups) {
        float sum = 0.0f, squares = 0.0f;
        for (int i = 0; i < lanes; ++i) {
            sum += parts[(i * groups + mine) * 2];
            squares += parts[(i * groups + mine) * 2 + 1];
        }
        const float count = (float)each * WIDTH * positions, mean = sum / count;
        means[mine] = pivot(a, b, bias, ca, cb, positions, mine * each * WIDTH) + mean;
        inverses[mine] = rsqrtf(fmaxf(squares / count - mean * mean, 0.0f) + epsilon);
    }
    __syncthreads();
    Affine by;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        const int c = v * WIDTH + i;
        by.factor[i] = inverses[v / each] * to_float(weight[c]);
        const float centre = means[v / each] - (bias ? to_float(bias[c]) : 0.0f);
        by.add[i] = to_float(offset[c]) - centre * by.factor[i];
    }
    return by;
}

__device__ __forceinline__ float activated(float x, int silu) {
    return silu ? x / (1.0f + __expf(-x)) : x;
}

// (x + bias - mean) / deviation * weight + offset, then * (1 + scale) + shift for each row, then SiLU, then a picture of
// twice (resize 1) or half (resize -1) the width and height, or the same (0); `across` is the width before that.
// Grid and block as above; shared: 2 * groups * (1 + min(threads / groups, 32)) floats. `scale` and `shift` may be null,
// and have `modulation` numbers from one row to the next.
extern "C" __global__ void __launch_bounds__(1024) group_apply(
    const number *a, const number *b, const number *bias, const float *moments, const number *weight,
    const number *offset, const number *scale, const number *shift, number *out,
    int ca, int cb, int positions, int chunk, int groups, int modulation, int across, int resize, float epsilon,
    int silu) {
    const int channels = ca + cb, wide = channels / WIDTH, at_once = blockDim.x / wide;
    const int channel = threadIdx.x % wide * WIDTH, first = threadIdx.x / wide;
    const size_t row = blockIdx.y;
    Affine by = normalising(a, b, bias, moments, weight, offset, ca, cb, positions, groups, epsilon);
    if (scale) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            const float more = 1.0f + to_float(scale[row * modulation + channel + i]);
            by.factor[i] *= more;
            by.add[i] = by.add[i] * more + to_float(shift[row * modulation + channel + i]);
        }
    }
    const Place from = place(a, b, ca, cb, positions, channel);
    if (resize < 0) {  // a block makes its share of the small picture
        const int small = positions / 4, share = (small + gridDim.x - 1) / gridDim.x, half = across / 2;
        const int end = min((int)(blockIdx.x + 1) * share, small);
        for (int p = blockIdx.x * share + first; p < end; p += at_once) {
            float sum[WIDTH] = {};
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
                const int at = (p / half * 2 + corner / 2) * across + p % half * 2 + corner % 2;
                const Numbers x = *(const Numbers *)(from.at + (size_t)at * from.stride);
#pragma unroll
                for (int i = 0; i < WIDTH; ++i) sum[i] += activated(to_float(x.of[i]) * by.factor[i] + by.add[i], silu);
            }
            Numbers y;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) y.of[i] = to_number(sum[i] * 0.25f);
            *(Numbers *)(out + (row * small + p) * channels + channel) = y;
        }
        return;
    }
    number *to = out + row * positions * (resize ? 4 : 1) * channels + channel;
    const int begin = blockIdx.x * chunk, end = min(begin + chunk, positions);
#pragma unroll 4
    for (int p = begin + first; p < end; p += at_once) {
        const Numbers x = *(const Numbers *)(from.at + (size_t)p * from.stride);
        Numbers y;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) y.of[i] = to_number(activated(to_float(x.of[i]) * by.factor[i] + by.add[i], silu));
        if (!resize) {
            *(Numbers *)(to + (size_t)p * channels) = y;
        } else {
            const size_t corner = (size_t)p / across * 4 * across + p % across * 2;
            *(Numbers *)(to + corner * channels) = y;
            *(Numbers *)(to + (corner + 1) * channels) = y;
            *(Numbers *)(to + (corner + 2 * across) * channels) = y;
            *(Numbers *)(to + (corner + 2 * across + 1) * channels) = y;
        }
    }
}

// The same with a factor and a summand for each place of a smaller picture (rows, small positions, channels), which is
// `times` as small in each direction; `across` is the width of the large one.
extern "C" __global__ void __launch_bounds__(1024) spatial_apply(
    const number *a, const number *bias, const float *moments, const number *weight, const number *offset,
    const number *factors, const number *summands, number *out,
    int channels, int positions, int chunk, int groups, int across, int times, float epsilon, int silu) {
    const int wide = channels / WIDTH, at_once = blockDim.x / wide, channel = threadIdx.x % wide * WIDTH;
    const size_t row = blockIdx.y;
    const Affine by = normalising(a, a, bias, moments, weight, offset, channels, 0, positions, groups, epsilon);
    const size_t small = row * (positions / (times * times));
    const int begin = blockIdx.x * chunk, end = min(begin + chunk, positions);
#pragma unroll 4
    for (int p = begin + threadIdx.x / wide; p < end; p += at_once) {
        const size_t at = (row * positions + p) * channels + channel;
        const size_t place = (small + p / across / times * (across / times) + p % across / times) * channels + channel;
        const Numbers x = *(const Numbers *)(a + at), f = *(const Numbers *)(factors + place);
        const Numbers s = *(const Numbers *)(summands + place);
        Numbers y;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            const float normal = to_float(x.of[i]) * by.factor[i] + by.add[i];
            y.of[i] = to_number(activated(normal * to_float(f.of[i]) + to_float(s.of[i]), silu));
        }
        *(Numbers *)(out + at) = y;
    }
}

// x += bias + other, in place, where `other` may be null; it is resized as in `group_apply`, to a picture `across` wide.
// `count` in units of WIDTH numbers.
extern "C" __global__ void add_bias(
    number *x, const number *bias, const number *other, int count, int channels, int across, int resize) {
    const unsigned int wide = channels / WIDTH, step = gridDim.x * blockDim.x;
    const Numbers *more = (const Numbers *)other, *summand = (const Numbers *)bias;
    for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned int)count; i += step) {
        const unsigned int v = i % wide, line = i / wide / across, column = i / wide % across;
        Numbers to = ((const Numbers *)x)[i];
        const Numbers b = summand[v];
        float sum[WIDTH];
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) sum[k] = to_float(to.of[k]) + to_float(b.of[k]);
        if (more && resize >= 0) {
            const size_t at = resize ? ((size_t)(line / 2) * (across / 2) + column / 2) * wide + v : i;
            const Numbers y = more[at];
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) sum[k] += to_float(y.of[k]);
        } else if (more) {
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
                const size_t place = ((size_t)line * 2 + corner / 2) * 2 * across + column * 2 + corner % 2;
                const Numbers y = more[place * wide + v];
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) sum[k] += 0.25f * to_float(y.of[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) to.of[k] = to_number(sum[k]);
        ((Numbers *)x)[i] = to;
    }
}
