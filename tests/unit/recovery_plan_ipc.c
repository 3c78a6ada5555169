/* What plan_check_ipc refuses of a model from disk. */
#include "unit.h"

#include <string.h>
#include <sys/mman.h>

#include "recovery/plan.h"

/* One of each, all of it right. */
struct fixture {
	Snap__Snapshot model;
	Snap__SysvObject objects[3];
	Snap__SysvSegment segment, *segments[2];
	Snap__SysvSemaphores set, *sets[1];
	Snap__SysvQueue queue, *queues[1];
	Snap__SysvMessage message, *messages[1];
	Snap__PosixQueue posix, *posixes[1];
	Snap__PosixMessage letter, *letters[1];
	Snap__IpcLimit limit, *limits[1];
	Snap__File files[2], *file_list[2];
	Snap__Process process, *processes[1];
	Snap__Region region, *regions[1];
	Snap__SemaphoreUndo undo, *undos[1];
	uint32_t values[3];
	uint8_t byte;
};

static void fill_system_v(struct fixture *f)
{
	for (int i = 0; i < 3; i++)
		f->objects[i] = (Snap__SysvObject)SNAP__SYSV_OBJECT__INIT;
	f->segment = (Snap__SysvSegment)SNAP__SYSV_SEGMENT__INIT;
	f->segment.object = &f->objects[0];
	f->segment.size = 5000;
	f->segment.file = 1;
	f->set = (Snap__SysvSemaphores)SNAP__SYSV_SEMAPHORES__INIT;
	f->set.object = &f->objects[1];
	f->set.values = f->values;
	f->set.n_values = 3;
	f->queue = (Snap__SysvQueue)SNAP__SYSV_QUEUE__INIT;
	f->queue.object = &f->objects[2];
	f->message = (Snap__SysvMessage)SNAP__SYSV_MESSAGE__INIT;
	f->message.type = 1;
	f->queue.messages = f->messages;
	f->queue.n_messages = 1;
}

static void fill_posix(struct fixture *f)
{
	f->posix = (Snap__PosixQueue)SNAP__POSIX_QUEUE__INIT;
	f->posix.name = (char *)"queue";
	f->posix.most_messages = 10;
	f->posix.message_size = 100;
	f->letter = (Snap__PosixMessage)SNAP__POSIX_MESSAGE__INIT;
	f->letter.data = (ProtobufCBinaryData){1, &f->byte};
	f->posix.messages = f->letters;
	f->posix.n_messages = 1;
	f->limit = (Snap__IpcLimit)SNAP__IPC_LIMIT__INIT;
	f->limit.name = (char *)"kernel/sem";
	f->limit.value = (char *)"32000\t1024000000\t500\t32000";
}

static void fill_process(struct fixture *f)
{
	for (int i = 0; i < 2; i++) {
		f->files[i] = (Snap__File)SNAP__FILE__INIT;
		f->file_list[i] = &f->files[i];
	}
	f->files[1].kind = SNAP__FILE__KIND__SYSV;
	f->region = (Snap__Region)SNAP__REGION__INIT;
	f->region.kind = SNAP__REGION__KIND__SYSV_SHM;
	f->region.start = 0x10000;
	f->region.end = 0x12000;
	f->region.file = 1;
	f->undo = (Snap__SemaphoreUndo)SNAP__SEMAPHORE_UNDO__INIT;
	f->undo.number = 2;
	f->undo.adjustment = -32768;
	f->process = (Snap__Process)SNAP__PROCESS__INIT;
	f->process.regions = f->regions;
	f->process.undos = f->undos;
	f->process.n_regions = f->process.n_undos = 1;
}

static void fill(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	fill_system_v(f);
	fill_posix(f);
	fill_process(f);
	f->segments[0] = f->segments[1] = &f->segment;
	f->sets[0] = &f->set;
	f->queues[0] = &f->queue;
	f->messages[0] = &f->message;
	f->posixes[0] = &f->posix;
	f->letters[0] = &f->letter;
	f->limits[0] = &f->limit;
	f->processes[0] = &f->process;
	f->regions[0] = &f->region;
	f->undos[0] = &f->undo;
	f->model = (Snap__Snapshot)SNAP__SNAPSHOT__INIT;
	f->model.segments = f->segments;
	f->model.semaphores = f->sets;
	f->model.queues = f->queues;
	f->model.posix_queues = f->posixes;
	f->model.ipc_limits = f->limits;
	f->model.n_segments = f->model.n_semaphores = f->model.n_queues = 1;
	f->model.n_posix_queues = f->model.n_ipc_limits = 1;
	f->model.files = f->file_list;
	f->model.n_files = 2;
	f->model.processes = f->processes;
	f->model.n_processes = 1;
}

static void test_sound_model_passes(void **state)
{
	struct fixture f;
	struct err err;

	fill(&f);
	assert_int_equal(plan_check_ipc(&f.model, &err), 0);
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		fill(&f);                                                                          \
		change;                                                                            \
		assert_fails(plan_check_ipc(&f.model, &err), ERR_CORRUPT, &err);                   \
	} while (0)

static void test_segments(void **state)
{
	struct fixture f;
	struct err err = {0};

	REFUSED(f.segment.object = NULL);
	REFUSED(f.segment.size = 0);
	REFUSED(f.segment.size = UINT64_MAX);
	REFUSED(f.segment.file = 2);
	REFUSED(f.segment.file = 0);
	REFUSED(f.objects[0].id = -1);
	REFUSED(f.model.n_segments = 2);
	REFUSED(f.model.n_segments = 0); /* the region's is missing */
	REFUSED(f.region.end = 0x13000);
	REFUSED(f.region.offset = 0x1000);
	REFUSED(f.region.offset = 1);
	REFUSED((f.region.read_only = true, f.region.prot = PROT_WRITE));
}

static void test_semaphores(void **state)
{
	struct fixture f;
	struct err err = {0};

	REFUSED(f.set.object = NULL);
	REFUSED(f.set.n_values = 0);
	REFUSED(f.values[2] = 32768);
	REFUSED(f.undo.number = 3);
	REFUSED(f.undo.id = 7);
	REFUSED(f.undo.adjustment = 32768);
	REFUSED(f.set.n_pids = 4);
}

static void test_queues(void **state)
{
	struct fixture f;
	struct err err = {0};

	REFUSED(f.queue.object = NULL);
	REFUSED(f.message.type = 0);
	REFUSED(f.posix.name = (char *)"a/b");
	REFUSED(f.posix.name = (char *)"..");
	REFUSED(f.posix.name = (char *)"");
	REFUSED(f.posix.most_messages = 0);
	REFUSED((f.posix.most_messages = 1 << 30, f.posix.message_size = 1 << 30));
	REFUSED(f.letter.data.len = 101);
	REFUSED(f.letter.priority = 32768);
}

/* What is written to files of /proc/sys, as root. */
static void test_limits(void **state)
{
	struct fixture f;
	struct err err = {0};

	REFUSED(f.limit.name = (char *)"kernel/core_pattern");
	REFUSED(f.limit.name = (char *)"kernel/../vm/overcommit_memory");
	REFUSED(f.limit.value = (char *)"1\n2");
	REFUSED(f.limit.value = (char *)"|/bin/sh");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound_model_passes),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_semaphores),
		cmocka_unit_test(test_queues),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
