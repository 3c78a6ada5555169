/* The snapshot model as stored, and the recovery plan that is made from it. */
#include "fuzz.h"

#include <signal.h>
#include <sys/mman.h>

#include "checkpointer/tracee/arch.h"
#include "recovery/plan.h"

static Snap__Region region(uint64_t start, Snap__Region__Kind kind, int file)
{
	Snap__Region r = SNAP__REGION__INIT;

	r.start = start;
	r.end = start + 0x3000;
	r.kind = kind;
	r.prot = PROT_READ | PROT_WRITE;
	r.file = file;
	return r;
}

static void fill_files(Snap__Snapshot *m, Snap__File **files, Snap__OpenFile **open)
{
	static Snap__File f[6];
	static Snap__OpenFile o[3];

	for (int i = 4; i < 6; i++) {
		f[i] = (Snap__File)SNAP__FILE__INIT;
		f[i].path = (char *)"/gone";
		f[i].deleted = true;
		files[i] = &f[i];
	}
	f[4].kind = SNAP__FILE__KIND__DIRECTORY;
	f[5].kind = SNAP__FILE__KIND__LINK;
	f[5].target = (char *)"no/where";
	f[3] = (Snap__File)SNAP__FILE__INIT;
	f[3].kind = SNAP__FILE__KIND__SYSV;
	f[3].path = (char *)"segment";
	f[3].content = true;
	files[3] = &f[3];
	for (int i = 0; i < 3; i++) {
		f[i] = (Snap__File)SNAP__FILE__INIT;
		f[i].path = (char *)(i == 0 ? "/usr/bin/sim" : i == 1 ? "/data/out" : "shm");
		f[i].size = 0x5000;
		o[i] = (Snap__OpenFile)SNAP__OPEN_FILE__INIT;
		files[i] = &f[i];
		open[i] = &o[i];
	}
	f[1].policy = SNAP__FILE__POLICY__RESTORE;
	f[1].content = f[2].content = true;
	f[1].content_root = 7;
	f[2].kind = SNAP__FILE__KIND__MEMFD;
	o[0].kind = SNAP__OPEN_FILE__KIND__STREAM;
	o[1].file = 1;
	o[1].offset = 100;
	o[2].kind = SNAP__OPEN_FILE__KIND__EVENTFD;
	m->files = files;
	m->n_files = 6;
	m->open_files = open;
	m->n_open_files = 3;
}

static void fill_process(Snap__Process *p)
{
	static Snap__Region r[6];
	static Snap__Region *regions[6];
	static Snap__Fd fd[3];
	static Snap__Fd *fds[3];
	static Snap__SigAction action = SNAP__SIG_ACTION__INIT;
	static Snap__SigAction *actions[64];
	static Snap__PosixTimer timer = SNAP__POSIX_TIMER__INIT;
	static Snap__PosixTimer *timers[1] = {&timer};
	static uint32_t ids[4] = {1000, 1000, 1000, 1000};
	static Snap__Credentials credentials = SNAP__CREDENTIALS__INIT;
	static Snap__Memory memory = SNAP__MEMORY__INIT;
	static uint8_t auxv[32];

	r[0] = region(0x400000, SNAP__REGION__KIND__FILE_PRIVATE, 0);
	r[1] = region(0x500000, SNAP__REGION__KIND__ANONYMOUS, -1);
	r[2] = region(0x600000, SNAP__REGION__KIND__FILE_SHARED, 1);
	r[3] = region(0x700000, SNAP__REGION__KIND__SHARED_MEMORY, 2);
	r[4] = region(0x800000, SNAP__REGION__KIND__SYSV_SHM, 3);
	r[5] = region(0x7f0000000000, SNAP__REGION__KIND__VDSO, -1);
	for (int i = 0; i < 6; i++)
		regions[i] = &r[i];
	for (int i = 0; i < 3; i++) {
		fd[i] = (Snap__Fd)SNAP__FD__INIT;
		fd[i].number = 2 * i;
		fd[i].open_file = i;
		fds[i] = &fd[i];
	}
	for (int i = 0; i < 64; i++)
		actions[i] = &action;
	credentials.uid = credentials.gid = ids;
	credentials.n_uid = credentials.n_gid = 4;
	memory.auxv = (ProtobufCBinaryData){sizeof(auxv), auxv};
	*p = (Snap__Process)SNAP__PROCESS__INIT;
	p->pid = p->pgid = p->sid = 2;
	p->ppid = 1;
	p->cwd = (char *)"/data";
	p->cwd_deleted = true;
	p->cwd_file = 1 + 4;
	p->root = (char *)"/";
	p->credentials = &credentials;
	p->memory = &memory;
	p->regions = regions;
	p->n_regions = 6;
	p->fds = fds;
	p->n_fds = 3;
	p->actions = actions;
	p->n_actions = 64;
	p->posix_timers = timers;
	p->n_posix_timers = 1;
	p->pages_root = 5;
}

static void fill_ipc(Snap__Snapshot *m, Snap__Process *p)
{
	static Snap__SysvObject object = SNAP__SYSV_OBJECT__INIT;
	static Snap__SysvSegment segment = SNAP__SYSV_SEGMENT__INIT, *segments[1] = {&segment};
	static Snap__SysvSemaphores set = SNAP__SYSV_SEMAPHORES__INIT, *sets[1] = {&set};
	static Snap__SysvQueue queue = SNAP__SYSV_QUEUE__INIT, *queues[1] = {&queue};
	static Snap__SysvMessage message = SNAP__SYSV_MESSAGE__INIT, *messages[1] = {&message};
	static Snap__PosixQueue posix = SNAP__POSIX_QUEUE__INIT, *posixes[1] = {&posix};
	static Snap__SemaphoreUndo undo = SNAP__SEMAPHORE_UNDO__INIT, *undos[1] = {&undo};
	static Snap__IpcLimit limit = SNAP__IPC_LIMIT__INIT, *limits[1] = {&limit};
	static uint32_t values[2] = {1, 2};

	segment.object = set.object = queue.object = &object;
	segment.size = 0x3000;
	segment.file = 3;
	set.values = values;
	set.n_values = 2;
	message.type = 1;
	queue.messages = messages;
	queue.n_messages = 1;
	undo.number = 1;
	undo.adjustment = -1;
	limit.name = (char *)"kernel/msgmnb";
	limit.value = (char *)"20000";
	m->segments = segments;
	m->semaphores = sets;
	m->queues = queues;
	m->ipc_limits = limits;
	posix.name = (char *)"queue";
	posix.most_messages = 10;
	posix.message_size = 100;
	m->posix_queues = posixes;
	m->n_posix_queues = 1;
	m->n_segments = m->n_semaphores = m->n_queues = m->n_ipc_limits = 1;
	p->undos = undos;
	p->n_undos = 1;
}

static void fill_threads(Snap__Process *p)
{
	static Snap__Thread t[2];
	static Snap__Thread *threads[2];
	static struct arch_regs registers;
	static uint8_t xstate[832];
	static siginfo_t info = {.si_signo = SIGUSR1};
	static ProtobufCBinaryData pending[1] = {{sizeof(info), (uint8_t *)&info}};

	for (int i = 0; i < 2; i++) {
		t[i] = (Snap__Thread)SNAP__THREAD__INIT;
		t[i].tid = 2 + i;
		t[i].comm = (char *)"sim";
		t[i].cwd = (char *)(i ? "/usr" : "");
		t[i].registers = (ProtobufCBinaryData){sizeof(registers), (uint8_t *)&registers};
		t[i].xstate = (ProtobufCBinaryData){sizeof(xstate), xstate};
		t[i].pending = pending;
		t[i].n_pending = 1;
		t[i].restart = i;
		t[i].restart_code = i ? 0 : 514;
		threads[i] = &t[i];
	}
	p->threads = threads;
	p->n_threads = 2;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	Snap__Snapshot m = SNAP__SNAPSHOT__INIT;
	Snap__Host host = SNAP__HOST__INIT;
	Snap__StateComponent avx = SNAP__STATE_COMPONENT__INIT, *layout[1] = {&avx};
	Snap__Clocks clocks = SNAP__CLOCKS__INIT;
	Snap__Capsule capsule = SNAP__CAPSULE__INIT;
	Snap__Process process, *processes[1] = {&process};
	Snap__File *files[6];
	Snap__OpenFile *open[3];
	Snap__Tree tree = SNAP__TREE__INIT, *trees[1] = {&tree};
	struct plan plan = {0};
	struct err err = {0};

	if (i > 0)
		return 0;
	avx.number = 2;
	avx.offset = 576;
	avx.size = 256;
	host.machine = (char *)"x86_64";
	host.page_size = 4096;
	host.cpu_baseline = 3;
	host.state_layout = layout;
	host.n_state_layout = 1;
	capsule.leader = 2;
	m.host = &host;
	m.clocks = &clocks;
	m.capsule = &capsule;
	m.processes = processes;
	m.n_processes = 1;
	fill_process(&process);
	fill_threads(&process);
	fill_ipc(&m, &process);
	fill_files(&m, files, open);
	tree.path = (char *)"/home/user/build";
	tree.objects = 3;
	tree.objects_root = 5;
	m.trees = trees;
	m.n_trees = 1;
	/* A seed that is refused at once would leave most of the plan untried. */
	if (plan_make(&plan, &m, false, &err) < 0) {
		fprintf(stderr, "the seed is refused: %s\n", err.msg);
		abort();
	}
	plan_clear(&plan);
	if (snap__snapshot__get_packed_size(&m) > room)
		abort();
	return snap__snapshot__pack(&m, buf);
}

static void make_plan(const Snap__Snapshot *model, bool leave_files, FILE *out)
{
	struct plan plan = {0};
	struct err err = {0};

	if (plan_make(&plan, model, leave_files, &err) < 0) {
		promise(err.kind != ERR_NONE && err.msg[0]);
		return;
	}
	for (size_t i = 0; i < plan.n_steps; i++)
		promise(plan.steps[i].process < model->n_processes + plan.lineage.n_helpers);
	plan_print(&plan, model, out);
	plan_clear(&plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static FILE *nowhere;
	Snap__Snapshot *model = snap__snapshot__unpack(NULL, size, data);
	struct err err = {0};

	if (!model)
		return 0;
	if (!nowhere && !(nowhere = fopen("/dev/null", "we")))
		abort();
	make_plan(model, false, nowhere);
	make_plan(model, true, nowhere);
	if (plan_check(model, &err) == 0 && plan_check_machine(model, &err) < 0)
		promise(err.kind == ERR_UNSUPPORTED || err.kind == ERR_CORRUPT);
	snap__snapshot__free_unpacked(model, NULL);
	return 0;
}
