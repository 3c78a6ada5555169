/*
 * rseq.c: threads that count on per-CPU counters in restartable sequences. A sequence that goes on
 * in its middle after a snapshot or on another CPU loses or doubles a count.
 */
#include "target.h"

#include <pthread.h>
#include <sys/rseq.h>
#include <unistd.h>

#define N_THREADS 3
#define N_CPUS	  1024

struct counter {
	intptr_t value;
	char pad[56];
};

static struct rseq *own_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* Adds 1 to *value if the thread still runs on cpu; false: it was interrupted, nothing was added.
 */
static bool add_on_cpu(struct rseq *rs, intptr_t *value, uint32_t cpu)
{
	__asm__ goto(".pushsection __rseq_cs, \"aw\"\n"
		     ".balign 32\n"
		     "3:\n"
		     ".long 0, 0\n"
		     ".quad 1f, 2f - 1f, 4f\n"
		     ".popsection\n"
		     "leaq 3b(%%rip), %%rax\n"
		     "movq %%rax, %0\n"
		     "1:\n"
		     "cmpl %2, %1\n"
		     "jnz 4f\n"
		     "movq %3, %%rax\n"
		     "pause\n" /* makes the sequence long enough to be met by a stop */
		     "pause\n"
		     "pause\n"
		     "pause\n"
		     "incq %%rax\n"
		     "movq %%rax, %3\n"
		     "2:\n"
		     ".pushsection __rseq_failure, \"ax\"\n"
		     ".byte 0x0f, 0xb9, 0x3d\n"
		     ".long 0x53053053\n" /* RSEQ_SIG */
		     "4:\n"
		     "jmp %l[aborted]\n"
		     ".popsection\n"
		     :
		     : "m"(rs->rseq_cs), "m"(rs->cpu_id), "r"(cpu), "m"(*value)
		     : "memory", "cc", "rax"
		     : aborted);
	return true;
aborted:
	return false;
}

struct member {
	const struct target *target;
	struct counter *counters;
	uint64_t added;
	pthread_t thread;
};

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct rseq *rs = own_rseq();

	while (!target_told(m->target)) {
		for (int i = 0; i < 100000; i++) {
			uint32_t cpu = rs->cpu_id_start;

			if (add_on_cpu(rs, &m->counters[cpu % N_CPUS].value, cpu))
				m->added++;
		}
	}
	CHECK((int)rs->cpu_id >= 0);
	return NULL;
}

int main(int argc, char **argv)
{
	struct target target;
	struct member members[N_THREADS];
	struct counter *counters = calloc(N_CPUS, sizeof(*counters));
	uint64_t added = 0, counted = 0;

	target_start(&target, argc, argv);
	if (!__rseq_size)
		target_skip("the C library has not registered rseq");
	for (int i = 0; i < N_THREADS; i++) {
		members[i] = (struct member){.target = &target, .counters = counters};
		CHECK(pthread_create(&members[i].thread, NULL, member_main, &members[i]) == 0);
	}
	target_ready(&target);
	for (int i = 0; i < N_THREADS; i++) {
		CHECK(pthread_join(members[i].thread, NULL) == 0);
		added += members[i].added;
	}
	for (int i = 0; i < N_CPUS; i++)
		counted += (uint64_t)counters[i].value;
	CHECK_EQ(added, counted);
	free(counters);
	return target_pass(&target);
}
