/*
 * libfuzzer.c: gives libFuzzer our seeds: with FUZZ_SEEDS=DIR they are written there first.
 */
#include "fuzz.h"

#define MAX_SEED (256u * 1024u)

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *dir = getenv("FUZZ_SEEDS");
	uint8_t *buf = malloc(MAX_SEED);
	char path[512];
	size_t size;

	if (!buf)
		abort();
	for (unsigned i = 0; dir && (size = fuzz_seed(i, buf, MAX_SEED)) > 0; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/seed-%u", dir, i);
		f = fopen(path, "we");
		if (!f || fwrite(buf, 1, size, f) != size || fclose(f) != 0) {
			perror(path);
			exit(1);
		}
	}
	free(buf);
	return 0;
}
