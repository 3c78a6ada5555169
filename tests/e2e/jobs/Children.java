import java.io.*;
import java.util.*;
import java.util.concurrent.*;

/* Threads that start child processes and talk to them through pipes. Usage: Children ROUNDS */
public class Children {
    static String child(int round, int n) throws Exception {
        Process process = new ProcessBuilder("sh", "-c", "while read x; do echo $((x * x % 9973)); done; exit " + n).start();
        StringBuilder all = new StringBuilder();
        Thread writer = new Thread(() -> {
            try (PrintWriter out = new PrintWriter(process.getOutputStream())) {
                for (int i = 0; i < 2000; i++) out.println(round * 100 + n * 7 + i);
            }
        });
        writer.start();
        try (BufferedReader in = new BufferedReader(new InputStreamReader(process.getInputStream()))) {
            for (String line; (line = in.readLine()) != null;) all.append(line);
        }
        writer.join();
        return n + ":" + process.waitFor() + ":" + all.length() + ":" + all.toString().hashCode();
    }

    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        for (int round = 0; round < Integer.parseInt(args[0]); round++) {
            List<Future<String>> results = new ArrayList<>();
            for (int n = 0; n < 6; n++) {
                int r = round, number = n;
                results.add(pool.submit(() -> child(r, number)));
            }
            StringBuilder line = new StringBuilder("round " + round);
            for (Future<String> result : results) line.append(" ").append(result.get());
            System.out.println(line);
        }
        pool.shutdown();
    }
}
