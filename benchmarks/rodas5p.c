/* Rodas5P on the logarithms of the factors of n weights, as gflow takes its steps.

   x = log|s| where side = +1 and log|d| where side = -1, log|s| + log|d| conserved;
   x' = side g, g = b - H theta, theta = side (e^2x - e^2(product - x)) / 4. */

#include <math.h>
#include <string.h>

#define MOST 64
#define STAGES 8
#define SAFETY 0.9
#define SHRINK 0.1
#define GROW 10.0
#define LEAST 1e-2
#define FINE 1e-10

/* Steinebach, BIT 63:27 (2023), Table 2. */
static const double GAMMA = 0.21193756319429014;
static const double A[STAGES][STAGES] = {
    {0.0},
    {3.0},
    {2.849394379747939, 0.45842242204463923},
    {-6.954028509809101, 2.489845061869568, -10.358996098473584},
    {2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641},
    {-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
     0.030198172008377946},
    {-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
     0.030198172008377946, 1.0},
    {-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
     0.030198172008377946, 1.0, 1.0}};
static const double C[STAGES][STAGES] = {
    {0.0},
    {-14.155112264123755},
    {-17.97296035885952, -2.859693295451294},
    {147.12150275711716, -1.41221402718213, 71.68940251302358},
    {165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306},
    {24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125,
     -0.6610691825249471},
    {30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783,
     -19.097331116725623, -28.087943162872662},
    {37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047,
     -40.06618937091002, -54.66780262877968, -9.48861652309627}};

typedef struct {
    int n;
    const double *hessian, *linear, *product;
    double atol;
} Flow;

typedef struct {
    double x[MOST], side[MOST], step, kept_step, kept_error;
} Now;

static void velocity(const Flow *f, const double *side, const double *x, double *out,
                     double *slope)
{
    double theta[MOST];
    for (int i = 0; i < f->n; i++) {
        double large = exp(2.0 * x[i]), small = exp(2.0 * (f->product[i] - x[i]));
        theta[i] = side[i] * 0.25 * (large - small);
        if (slope) slope[i] = side[i] * 0.5 * (large + small);
    }
    for (int i = 0; i < f->n; i++) {
        double g = f->linear[i];
        for (int j = 0; j < f->n; j++) g -= f->hessian[i * f->n + j] * theta[j];
        out[i] = side[i] * g;
    }
}

/* Gauss-Jordan in place, without pivots. */
static void invert(double *m, int n)
{
    for (int k = 0; k < n; k++) {
        double *row = m + k * n, scale = 1.0 / row[k];
        row[k] = 1.0;
        for (int j = 0; j < n; j++) row[j] *= scale;
        for (int i = 0; i < n; i++) {
            if (i == k) continue;
            double *other = m + i * n, by = other[k];
            other[k] = 0.0;
            for (int j = 0; j < n; j++) other[j] -= by * row[j];
        }
    }
}

/* The longest step worth trying: until a dormant weight that grows comes to be felt. */
static double horizon(const Flow *f, const Now *now, const double *rate)
{
    double longest = INFINITY;
    for (int i = 0; i < f->n; i++) {
        double z = rate[i] > 0.0 ? now->x[i] : f->product[i] - now->x[i];
        double speed = fabs(rate[i]);
        if (!(z < 0.0 && isfinite(z) && speed > 0.0)) continue;
        double unfelt = 0.5 * log(0.4 * f->atol) - 0.5 * log1p(2.0 * fabs(z));
        double way = fmax(unfelt - z, 0.4 * (log(2.0) - z));
        longest = fmin(longest, way / speed);
    }
    return longest;
}

/* One attempt from t towards span; returns the length of the step, 0 where it is rejected. */
static double attempt(const Flow *f, Now *now, double t, double span)
{
    const int n = f->n;
    double first[MOST], slope[MOST], u[STAGES][MOST], point[MOST], inverse[MOST * MOST];
    velocity(f, now->side, now->x, first, slope);
    double h = fmin(now->step, horizon(f, now, first));
    int last = h >= span - t;
    if (last) h = span - t;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            inverse[i * n + j] = now->side[i] * f->hessian[i * n + j] * slope[j];
        inverse[i * n + i] += 1.0 / (h * GAMMA);
    }
    invert(inverse, n);
    for (int s = 0; s < STAGES; s++) {
        double force[MOST];
        memcpy(point, now->x, n * sizeof(double));
        memset(force, 0, sizeof force);
        for (int r = 0; r < s; r++) {
            double a = A[s][r], c = C[s][r] / h;
            for (int i = 0; i < n; i++) point[i] += a * u[r][i], force[i] += c * u[r][i];
        }
        double rate[MOST];
        if (s)
            velocity(f, now->side, point, rate, NULL);
        else
            memcpy(rate, first, n * sizeof(double));
        for (int i = 0; i < n; i++) force[i] += rate[i];
        for (int i = 0; i < n; i++) {
            double sum = 0.0;
            for (int j = 0; j < n; j++) sum += inverse[i * n + j] * force[j];
            u[s][i] = sum;
        }
    }
    double error = 0.0;
    int sound = 1;
    for (int i = 0; i < n; i++) {
        point[i] += u[STAGES - 1][i];
        sound &= isfinite(point[i]) && isfinite(u[STAGES - 1][i]);
        error = fmax(error, fabs(u[STAGES - 1][i]) / f->atol);
    }
    int kept = sound && error <= 1.0;
    error = fmax(error, 1e-30);
    double factor = SAFETY * pow(error, -0.2);
    if (kept) {
        double trend = h / now->kept_step * pow(now->kept_error / error, 0.2);
        factor *= fmin(trend, 1.0);
    }
    factor = sound ? fmin(fmax(factor, SHRINK), GROW) : SHRINK;
    now->step = h * factor;
    if (!kept) return 0.0;
    now->kept_step = h;
    now->kept_error = fmax(error, LEAST);
    for (int i = 0; i < n; i++) {
        double other = f->product[i] - point[i];
        int swap = other > point[i];
        now->side[i] = swap ? -now->side[i] : now->side[i];
        now->x[i] = swap ? other : point[i];
    }
    return last ? span - t : h;
}

static void weights(const Flow *f, const Now *now, double *out)
{
    for (int i = 0; i < f->n; i++)
        out[i] = now->side[i] * 0.25 *
                 (exp(2.0 * now->x[i]) - exp(2.0 * (f->product[i] - now->x[i])));
}

/* The weights a time `span` after `from`, in one step if that is exact enough. */
static void arrive(const Flow *f, const Now *from, double span, double *out)
{
    Now now = *from;
    now.step = now.kept_step = span > 0.0 ? span : 1.0;
    now.kept_error = 1.0;
    for (int left = 10000; span > 0.0 && left; left--) span -= attempt(f, &now, 0.0, span);
    weights(f, &now, out);
}

/* Weights at the times; counts = kept and rejected attempts. Returns 0 where it got there. */
int march(int n, const double *hessian, const double *linear, const double *log_s,
          const double *log_d, double rtol, const double *times, int saved, int most,
          double *out, int *counts)
{
    double product[MOST], rate[MOST], done = 0.0, t = 0.0, end = times[saved - 1];
    Flow f = {n, hessian, linear, product, 0.1 * rtol};
    Now now;
    if (n < 1 || n > MOST) return 2;
    for (int i = 0; i < n; i++) {
        product[i] = log_s[i] + log_d[i];
        now.side[i] = log_s[i] >= log_d[i] ? 1.0 : -1.0;
        now.x[i] = fmax(log_s[i], log_d[i]);
    }
    velocity(&f, now.side, now.x, rate, NULL);
    now.step = INFINITY;
    for (int i = 0; i < n; i++)
        if (rate[i] != 0.0) now.step = fmin(now.step, 1e-3 / fabs(rate[i]));
    now.kept_step = now.step;
    now.kept_error = 1.0;
    counts[0] = counts[1] = 0;
    for (int k = 0; counts[0] + counts[1] < most;) {
        Now before = now;
        double start = done + t, h = attempt(&f, &now, t, end - done);
        counts[h > 0.0 ? 0 : 1]++;
        int arrived = h > 0.0 && h >= end - done - t;
        t += h;
        double here = arrived ? end : done + t;
        for (; h > 0.0 && k < saved && times[k] <= here; k++) {
            if (times[k] == here)
                weights(&f, &now, out + k * n);
            else
                arrive(&f, &before, times[k] - start, out + k * n);
        }
        if (arrived) return 0;
        if (now.step < FINE * t) done += t, t = 0.0;
    }
    return 1;
}
