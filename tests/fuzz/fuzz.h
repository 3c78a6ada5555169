/*
 * fuzz.h: one fuzz target a file, in libFuzzer's shape.
 *
 * Linked with driver.c it is a plain program that mutates its seeds, the same way each time for the
 * same
 * --seed; built by clang with -fsanitize=fuzzer it is a libFuzzer target (see ./smoke).
 */
#ifndef PAWL_TESTS_FUZZ_FUZZ_H
#define PAWL_TESTS_FUZZ_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Hands any bytes to a decoder. Never fails: what is wrong shows as a crash, a sanitizer's report,
 * or an abort() of the target itself where a promise is broken. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Good inputs to start from: writes the i-th to buf and returns its length, 0: there are no more.
 */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room);

/* For seeds that are texts. */
static inline size_t fuzz_seed_text(const char *const *texts, unsigned n, unsigned i, uint8_t *buf,
				    size_t room)
{
	size_t len;

	if (i >= n)
		return 0;
	len = strlen(texts[i]);
	if (len > room)
		abort();
	memcpy(buf, texts[i], len);
	return len;
}

/* The input as a string of its own, so that a read past its end is seen. The caller frees it. */
static inline char *fuzz_string(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		abort();
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

/* A promise of the decoder's contract. */
#define promise(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__,         \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
