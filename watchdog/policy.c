#include "watchdog/policy.h"

#include <signal.h>
#include <sys/wait.h>

uint64_t policy_next_due(uint64_t started, uint64_t finished, uint64_t interval)
{
	uint64_t due = started + interval;
	uint64_t rested = finished + (finished - started);

	if (interval == 0)
		return UINT64_MAX;
	return due < rested ? rested : due;
}

static bool from_terminal(int signo)
{
	return signo == SIGINT || signo == SIGQUIT || signo == SIGHUP;
}

bool policy_foreign_death(const struct death_facts *facts)
{
	int signo;

	if (!WIFSIGNALED(facts->status))
		return false;
	signo = WTERMSIG(facts->status);
	if (signo >= 1 && signo <= 64 && facts->sent & 1ull << (signo - 1))
		return false;
	if (facts->terminal && from_terminal(signo))
		return false;
	return !(facts->stream_gone && signo == SIGPIPE);
}

static uint64_t newest_below(const uint64_t *good, size_t n_good, uint64_t limit)
{
	uint64_t found = 0;
	size_t i;

	for (i = 0; i < n_good; i++)
		if (good[i] < limit && good[i] > found)
			found = good[i];
	return found;
}

uint64_t policy_roll_back(const struct retry_state *state, unsigned retries, uint64_t now,
			  uint64_t interval, const uint64_t *good, size_t n_good)
{
	bool soon;

	if (state->used >= retries)
		return 0;
	soon = state->base != 0 &&
	       (!state->snapshot_since || now - state->recovered_at < 2 * interval);
	return newest_below(good, n_good, soon ? state->base : UINT64_MAX);
}

void retry_note(struct retry_state *state, uint64_t seq, uint64_t now)
{
	state->used++;
	state->base = seq;
	state->recovered_at = now;
	state->snapshot_since = false;
}

bool hang_look(struct hang_state *state, uint64_t cpu, uint64_t now, uint64_t timeout)
{
	if (!state->known || cpu != state->cpu) {
		state->known = true;
		state->cpu = cpu;
		state->since = now;
	}
	return timeout != 0 && now - state->since >= timeout;
}

void hang_rebase(struct hang_state *state, uint64_t cpu)
{
	if (state->known)
		state->cpu = cpu;
}

void hang_reset(struct hang_state *state)
{
	*state = (struct hang_state){0};
}

/* Keeps the newest of each of the last n periods that have one: infos are walked newest first. */
static void keep_periods(const struct snapshot_info *infos, size_t n, unsigned periods,
			 uint64_t period_s, long utc_offset, bool *drop)
{
	int64_t last = INT64_MIN;
	size_t i;

	for (i = n; i-- > 0 && periods > 0;) {
		int64_t local = (int64_t)(infos[i].time / 1000000000ull) + utc_offset;
		int64_t period = local / (int64_t)period_s;

		if (infos[i].time == 0 || period == last)
			continue;
		last = period;
		periods--;
		drop[i] = false;
	}
}

static size_t keep_newest(const struct snapshot_info *infos, size_t n, unsigned keep, bool *drop)
{
	size_t kept = 0, i;

	for (i = n; i-- > 0 && kept < keep;) {
		if (infos[i].time == 0)
			continue;
		drop[i] = false;
		kept++;
	}
	return kept;
}

size_t policy_retention(const struct snapshot_info *infos, size_t n, const struct retention *rule,
			uint64_t protect, long utc_offset, bool *drop)
{
	size_t dropped = 0, i;
	bool thin = rule->keep > 0;

	for (i = 0; i < n; i++)
		drop[i] = thin;
	if (!thin)
		return 0;
	if (keep_newest(infos, n, rule->keep, drop) < rule->keep)
		for (i = 0; i < n; i++)
			drop[i] = false;
	keep_periods(infos, n, rule->keep_hourly, 3600, utc_offset, drop);
	keep_periods(infos, n, rule->keep_daily, 86400, utc_offset, drop);
	for (i = 0; i < n; i++) {
		if (infos[i].seq == protect)
			drop[i] = false;
		dropped += drop[i];
	}
	return dropped;
}

/* ---- moving -------------------------------------------------------------------------------- */

#define PAGES_FEW 8192 /* 32 MiB: a tenth of a second */

bool policy_frees_now(const struct snapshot_info *infos, size_t n, uint64_t garbage)
{
	uint64_t raw = 0, stored = 0;
	double full;

	for (size_t i = 0; i < n; i++) {
		raw += infos[i].bytes_raw;
		stored += infos[i].bytes_stored;
	}
	if (raw == 0)
		return true;
	full = (double)infos[n - 1].pages_resident * STORE_PAGE_SIZE * (double)stored / (double)raw;
	return (double)garbage >= full / 2;
}

bool policy_another_round(uint64_t last, uint64_t pages)
{
	return pages > PAGES_FEW && pages < last - last / 8;
}

/* Beside what it takes to rebuild the job. */
#define STAND_STILL_NS 400000000ull

unsigned policy_slow_down(uint64_t round_ns, unsigned percent)
{
	/* Each time a fifth as much is left for the job to run in: many a job that has time to spare does not
	 * notice less. */
	static const unsigned steps[] = {80, 96};

	for (size_t i = 0; round_ns > STAND_STILL_NS && i < sizeof(steps) / sizeof(steps[0]); i++)
		if (steps[i] > percent)
			return steps[i];
	return 0;
}
