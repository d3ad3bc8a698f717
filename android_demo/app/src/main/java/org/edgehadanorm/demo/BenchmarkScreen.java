package org.edgehadanorm.demo;

import android.app.Activity;
import android.content.ClipData;
import android.content.ClipboardManager;
import android.view.View;
import android.view.ViewGroup;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.TextView;
import android.widget.Toast;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;

import org.edgehadanorm.core.Benchmark;
import org.edgehadanorm.core.Bundle;

/** Measures one picture and shows the figures. */
final class BenchmarkScreen implements Screen {
    private final Activity activity;
    private final Session session;
    private final DeviceFacts device;
    private final Spinner steps;
    private final Spinner threads;
    private final View measure;
    private final View cancel;
    private final ProgressBar progress;
    private final TextView status;
    private final View results;
    private final TextView headline;
    private final ViewGroup table;
    private String filledFor = "";
    /** What the table shows: it is filled again only with other figures. */
    private Optional<Benchmark> shown = Optional.empty();

    BenchmarkScreen(Activity activity, Session session) {
        this.activity = activity;
        this.session = session;
        device = new DeviceFacts(activity);
        steps = (Spinner) activity.findViewById(R.id.measure_steps);
        threads = (Spinner) activity.findViewById(R.id.measure_threads);
        measure = activity.findViewById(R.id.measure);
        cancel = activity.findViewById(R.id.measure_cancel);
        progress = (ProgressBar) activity.findViewById(R.id.measure_progress);
        status = (TextView) activity.findViewById(R.id.measure_status);
        results = activity.findViewById(R.id.measure_results);
        headline = (TextView) activity.findViewById(R.id.measure_headline);
        table = (ViewGroup) activity.findViewById(R.id.measure_table);
        List<Integer> counts = new ArrayList<>();
        for (int count = 1; count <= DeviceFacts.cores(); count++) {
            counts.add(count);
        }
        Fields.choices(activity, threads, counts, DeviceFacts.usualThreads());
        measure.setOnClickListener(view -> session.state().bundle().ifPresent(this::measure));
        cancel.setOnClickListener(view -> session.cancel());
        activity.findViewById(R.id.measure_copy).setOnClickListener(view -> copy());
    }

    @Override
    public void show(State state) {
        state.bundle().ifPresent(this::fill);
        BenchmarkContent content = new BenchmarkContent(state);
        Fields.visible(measure, !content.isMeasuring());
        measure.setEnabled(content.canMeasure());
        Fields.visible(cancel, content.isMeasuring());
        Fields.show(progress, content.bar());
        Fields.visible(status, content.isMeasuring());
        Fields.say(status, content.status());
        Optional<Benchmark> now = content.results();
        Fields.visible(results, now.isPresent());
        if (!now.equals(shown)) {
            now.ifPresent(benchmark -> showResults(benchmark, content.facts(), state.threads()));
            shown = now;
        }
    }

    private void fill(Bundle bundle) {
        String filling = bundle.name() + " " + bundle.size();
        if (!filling.equals(filledFor)) {
            Fields.choices(activity, steps, new ArrayList<>(bundle.plans().keySet()), bundle.defaultPlan());
            filledFor = filling;
        }
    }

    private void measure(Bundle bundle) {
        session.measure(BenchmarkContent.request(bundle, Fields.chosen(steps, String.class)),
                Fields.chosen(threads, Integer.class).orElse(DeviceFacts.usualThreads()));
    }

    private void showResults(Benchmark benchmark, List<Fact> measured, int used) {
        headline.setText(Format.milliseconds(benchmark.medianStep()));
        Facts facts = new Facts(activity, table);
        measured.forEach(facts::add);
        facts.add(text(R.string.measured_device), DeviceFacts.model());
        facts.add(text(R.string.measured_chip), Api.chip());
        facts.add(text(R.string.measured_threads),
                activity.getString(R.string.threads_of_cores, used, DeviceFacts.cores()));
    }

    private String text(int id) {
        return activity.getString(id);
    }

    private void copy() {
        State state = session.state();
        state.benchmark().ifPresent(benchmark -> {
            Map<String, String> facts = device.all(state.threads());
            facts.put("peak_memory_kib", String.valueOf(state.peakKibibytes()));
            ClipboardManager clipboard =
                    (ClipboardManager) activity.getSystemService(Activity.CLIPBOARD_SERVICE);
            clipboard.setPrimaryClip(ClipData.newPlainText(text(R.string.app_name), benchmark.toJson(facts)));
            Toast.makeText(activity, R.string.copied, Toast.LENGTH_SHORT).show();
        });
    }
}
