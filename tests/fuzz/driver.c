/*
 * driver.c: runs a fuzz target without libFuzzer.
 *
 *   fuzz_X [--runs N] [--seconds S] [--seed N] [FILE…]   mutate seeds and files
 *   fuzz_X --only FILE…                                  run the files as they are
 *
 * The same seed makes the same inputs. An input that crashes is written to crash-X-SEED in the
 * working directory, to be kept under corpus/ once the bug is fixed.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define MAX_INPUT (256u * 1024u)
#define MAX_POOL  256u

struct input {
	uint8_t *data;
	size_t size;
};

struct driver {
	const char *name;
	struct input pool[MAX_POOL];
	size_t n;
	uint64_t random, seed;
	uint8_t *work; /* MAX_INPUT */
};

/* What is being run: for the signal handler, which gets no context. */
static struct input current;
static char crash_path[256];

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void save_current(void)
{
	int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, current.data, current.size) != (ssize_t)current.size)
		return;
	close(fd);
	if (write(STDERR_FILENO, "input kept in ", 14) < 0 ||
	    write(STDERR_FILENO, crash_path, strlen(crash_path)) < 0 ||
	    write(STDERR_FILENO, "\n", 1) < 0)
		return;
}

static void on_crash(int signo)
{
	save_current();
	signal(signo, SIG_DFL);
	raise(signo);
}

static uint64_t next_random(uint64_t *state)
{
	/* splitmix64 */
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static size_t below(struct driver *d, size_t limit)
{
	return limit ? (size_t)(next_random(&d->random) % limit) : 0;
}

static void add_input(struct driver *d, const uint8_t *data, size_t size)
{
	struct input *in = &d->pool[d->n];

	if (d->n == MAX_POOL)
		return;
	in->data = malloc(size + 1);
	if (!in->data)
		abort();
	memcpy(in->data, data, size);
	in->size = size;
	d->n++;
}

/* ---- mutation ------------------------------------------------------------------------------ */

static void flip_bits(struct driver *d, size_t size)
{
	for (size_t n = 1 + below(d, 8); size && n > 0; n--)
		d->work[below(d, size)] ^= (uint8_t)(1u << below(d, 8));
}

static void set_interesting(struct driver *d, size_t size)
{
	static const uint64_t values[] = {0,	      1,	  0x7f,	      0x80,
					  0xff,	      0x7fff,	  0xffff,     0x7fffffff,
					  0x80000000, 0xffffffff, 1ull << 63, UINT64_MAX};
	uint64_t value = values[below(d, sizeof(values) / sizeof(values[0]))];
	size_t width = (size_t)1 << below(d, 4);

	if (size >= width)
		memcpy(d->work + below(d, size - width + 1), &value, width);
}

static void set_text(struct driver *d, size_t size)
{
	static const char alphabet[] = "0123456789abcdef-:/ \n\t()[]@.,%\\xsrwpKMG";

	for (size_t n = 1 + below(d, 4); size && n > 0; n--)
		d->work[below(d, size)] = (uint8_t)alphabet[below(d, sizeof(alphabet) - 1)];
}

static size_t insert_piece(struct driver *d, size_t size)
{
	const struct input *from = &d->pool[below(d, d->n)];
	size_t start = below(d, from->size), len = 1 + below(d, 64), at = below(d, size + 1);

	if (len > from->size - start)
		len = from->size - start;
	if (len > MAX_INPUT - size)
		return size;
	memmove(d->work + at + len, d->work + at, size - at);
	memcpy(d->work + at, from->data + start, len);
	return size + len;
}

static size_t cut_piece(struct driver *d, size_t size)
{
	size_t at = below(d, size), len = 1 + below(d, 32);

	if (size == 0)
		return 0;
	if (len > size - at)
		len = size - at;
	memmove(d->work + at, d->work + at + len, size - at - len);
	return size - len;
}

static size_t mutate(struct driver *d)
{
	const struct input *from = &d->pool[below(d, d->n)];
	size_t size = from->size;

	memcpy(d->work, from->data, size);
	for (size_t n = below(d, 6); n > 0; n--) {
		switch (below(d, 7)) {
		case 0:
			flip_bits(d, size);
			break;
		case 1:
			set_interesting(d, size);
			break;
		case 2:
			set_text(d, size);
			break;
		case 3:
			size = insert_piece(d, size);
			break;
		case 4:
			size = cut_piece(d, size);
			break;
		case 5:
			size = below(d, size + 1);
			break;
		default:
			if (size)
				d->work[below(d, size)] = (uint8_t)next_random(&d->random);
		}
	}
	return size;
}

/* ---- running ------------------------------------------------------------------------------- */

static void run_one(const uint8_t *data, size_t size)
{
	/* A block of exactly this size: the sanitizer sees a read behind it. */
	uint8_t *exact = malloc(size ? size : 1);

	if (!exact)
		abort();
	memcpy(exact, data, size);
	current = (struct input){exact, size};
	LLVMFuzzerTestOneInput(exact, size);
	current = (struct input){NULL, 0};
	free(exact);
}

static void run_mutations(struct driver *d, unsigned long runs, unsigned seconds)
{
	time_t end = time(NULL) + seconds;
	unsigned long i;

	for (i = 0; i < runs; i++) {
		if (seconds && i % 64 == 0 && time(NULL) >= end)
			break;
		run_one(d->work, mutate(d));
	}
	printf("%s: %zu seeds, %lu inputs, seed %llu\n", d->name, d->n, i,
	       (unsigned long long)d->seed);
}

static int load_file(struct driver *d, const char *path)
{
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f) {
		perror(path);
		return -1;
	}
	n = fread(d->work, 1, MAX_INPUT, f);
	fclose(f);
	add_input(d, d->work, n);
	return 0;
}

static void load_seeds(struct driver *d)
{
	size_t size;

	for (unsigned i = 0; (size = fuzz_seed(i, d->work, MAX_INPUT)) > 0; i++)
		add_input(d, d->work, size);
	if (d->n == 0)
		add_input(d, (const uint8_t *)"", 0);
}

static void watch_for_crashes(const struct driver *d)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};

	snprintf(crash_path, sizeof(crash_path), "crash-%s-%llu", d->name,
		 (unsigned long long)d->seed);
	if (__sanitizer_set_death_callback) {
		/* The sanitizers have handlers of their own for the signals. */
		__sanitizer_set_death_callback(save_current);
		signal(SIGABRT, on_crash);
		return;
	}
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_crash);
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{"runs", required_argument, NULL, 'r'},
		{"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'S'},
		{"only", no_argument, NULL, 'o'},
		{NULL, 0, NULL, 0},
	};
	static struct driver d = {.seed = 1};
	unsigned long runs = 100000;
	unsigned seconds = 0;
	int only = 0, key;

	d.name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	while ((key = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (key) {
		case 'r':
			runs = strtoul(optarg, NULL, 10);
			break;
		case 's':
			seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'S':
			d.seed = strtoull(optarg, NULL, 10);
			break;
		case 'o':
			only = 1;
			break;
		default:
			return 2;
		}
	}
	d.random = d.seed;
	d.work = malloc(MAX_INPUT);
	if (!d.work)
		return 1;
	if (!only)
		load_seeds(&d);
	for (int i = optind; i < argc; i++)
		if (load_file(&d, argv[i]) < 0)
			return 1;
	watch_for_crashes(&d);
	for (size_t i = 0; i < d.n; i++)
		run_one(d.pool[i].data, d.pool[i].size);
	if (!only)
		run_mutations(&d, runs, seconds);
	while (d.n > 0)
		free(d.pool[--d.n].data);
	free(d.work);
	return 0;
}
