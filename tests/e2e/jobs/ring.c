/* A small MPI program: a halo exchange, reductions and all-to-all. Usage: ring STEPS */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define CELLS 60000

static double cell[CELLS + 2], next[CELLS + 2];

static void exchange(int rank, int size)
{
	int left = (rank + size - 1) % size, right = (rank + 1) % size;

	MPI_Sendrecv(&cell[CELLS], 1, MPI_DOUBLE, right, 0, &cell[0], 1, MPI_DOUBLE, left, 0,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	MPI_Sendrecv(&cell[1], 1, MPI_DOUBLE, left, 1, &cell[CELLS + 1], 1, MPI_DOUBLE, right, 1,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

/* Large messages take another way through the transport than small ones. */
static double swap_whole(int rank, int size)
{
	static double other[CELLS];
	double sum = 0;
	int to = (rank + 1) % size, from = (rank + size - 1) % size;

	MPI_Sendrecv(&cell[1], CELLS, MPI_DOUBLE, to, 2, other, CELLS, MPI_DOUBLE, from, 2,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	for (int i = 0; i < CELLS; i++)
		sum += other[i] * (i % 7);
	return sum;
}

int main(int argc, char **argv)
{
	int rank, size, steps = argc > 1 ? atoi(argv[1]) : 100;
	double sum, total;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (int i = 0; i < CELLS + 2; i++)
		cell[i] = (rank * CELLS + i) % 101;
	for (int step = 0; step < steps; step++) {
		for (int turn = 0; turn < 10; turn++) {
			exchange(rank, size);
			for (int i = 1; i <= CELLS; i++)
				next[i] = (cell[i - 1] + 2 * cell[i] + cell[i + 1]) / 4 + i % 3;
			for (int i = 1; i <= CELLS; i++)
				cell[i] = next[i];
		}
		sum = swap_whole(rank, size);
		MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
		if (rank == 0) {
			printf("%d %.17g\n", step, total);
			fflush(stdout);
		}
	}
	MPI_Finalize();
	return 0;
}
