package org.edgehadanorm.demo;

import android.app.Activity;
import android.content.ClipData;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.view.inputmethod.EditorInfo;
import android.view.inputmethod.InputMethodManager;
import android.widget.ArrayAdapter;
import android.widget.AutoCompleteTextView;
import android.widget.EditText;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.TextView;
import android.widget.Toast;
import java.util.Optional;
import java.util.Random;

import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;

/** The form, the picture that grows, and what can be done with it. */
final class GenerateScreen implements Screen {
    private static final int SEEDS = 1_000_000;
    private static final String FORM_BUNDLE = "form_bundle";
    private static final String FORM_STEPS = "form_steps";

    private final Activity activity;
    private final Session session;
    private final Saver saver;
    private final Random random = new Random();
    private final PictureView picture;
    private final TextView placeholder;
    private final TextView status;
    private final TextView figures;
    private final ProgressBar progress;
    private final View actions;
    private final AutoCompleteTextView prompt;
    private final EditText seed;
    private final Spinner steps;
    private final EditText guidance;
    private final View generate;
    private final View cancel;
    /** Of the bundle that the form is filled for. */
    private String filledFor = "";
    private int restoredSteps;
    private boolean restored;
    private Optional<Picture> shown = Optional.empty();

    GenerateScreen(Activity activity, Session session, Saver saver) {
        this.activity = activity;
        this.session = session;
        this.saver = saver;
        picture = (PictureView) activity.findViewById(R.id.picture);
        placeholder = (TextView) activity.findViewById(R.id.placeholder);
        status = (TextView) activity.findViewById(R.id.status);
        figures = (TextView) activity.findViewById(R.id.figures);
        progress = (ProgressBar) activity.findViewById(R.id.progress);
        actions = activity.findViewById(R.id.actions);
        prompt = (AutoCompleteTextView) activity.findViewById(R.id.prompt);
        seed = (EditText) activity.findViewById(R.id.seed);
        steps = (Spinner) activity.findViewById(R.id.steps);
        guidance = (EditText) activity.findViewById(R.id.guidance);
        generate = activity.findViewById(R.id.generate);
        cancel = activity.findViewById(R.id.cancel);
        generate.setOnClickListener(view -> generate());
        prompt.setOnEditorActionListener((view, action, event) ->
                action == EditorInfo.IME_ACTION_GO && generate.isEnabled() && generate.performClick());
        cancel.setOnClickListener(view -> session.cancel());
        activity.findViewById(R.id.new_seed).setOnClickListener(
                view -> seed.setText(String.valueOf(random.nextInt(SEEDS))));
        activity.findViewById(R.id.share).setOnClickListener(view -> share());
        View save = activity.findViewById(R.id.save);
        save.setOnClickListener(view -> save());
        Fields.visible(save, Api.canSaveToGallery());
    }

    /** What the views do not remember by themselves. */
    void save(Bundle out) {
        out.putString(FORM_BUNDLE, filledFor);
        out.putInt(FORM_STEPS, Fields.chosen(steps).orElse(restoredSteps));
    }

    /** Keeps what the views remember when their bundle is opened again. */
    void restore(Bundle saved) {
        filledFor = saved.getString(FORM_BUNDLE);
        restoredSteps = saved.getInt(FORM_STEPS);
        restored = true;
    }

    @Override
    public void show(State state) {
        state.bundle().ifPresent(this::fill);
        boolean drawing = state.is(State.Kind.RUNNING, State.Task.DRAW);
        Fields.visible(generate, !drawing);
        generate.setEnabled(!state.isBusy() && state.bundle().isPresent());
        Fields.visible(cancel, drawing);
        Fields.visible(progress, drawing);
        showPicture(state.drawing());
        if (drawing) {
            showProgress(state.drawing().get());
        } else {
            showLast(state.drawing());
        }
    }

    private void fill(org.edgehadanorm.core.Bundle bundle) {
        picture.setProportions(bundle.width(), bundle.height());
        boolean same = bundle.name().equals(filledFor);
        if (same && !restored) {
            return;
        }
        prompt.setAdapter(new ArrayAdapter<>(activity, R.layout.item_choice_open, bundle.prompt().choices()));
        Fields.choices(activity, steps, bundle.steps(), same ? restoredSteps : bundle.defaultSteps());
        if (!same) {
            guidance.setText(String.valueOf(bundle.defaultGuidance()));
            // So that the first tap draws something that the model knows.
            bundle.golden().ifPresent(golden -> {
                prompt.setText(golden.request().prompt(), false);
                seed.setText(String.valueOf(golden.request().seed()));
            });
        }
        filledFor = bundle.name();
        restored = false;
    }

    private void showPicture(Optional<Drawing> drawing) {
        Optional<Picture> now = drawing.flatMap(Drawing::picture);
        Fields.visible(placeholder, !now.isPresent());
        Fields.visible(actions, drawing.filter(Drawing::isFinished).isPresent());
        if (!now.equals(shown)) {
            picture.setImageDrawable(
                    now.map(pixels -> Bitmaps.drawable(activity.getResources(), pixels)).orElse(null));
            shown = now;
        }
        drawing.ifPresent(what -> picture.setContentDescription(activity.getString(
                what.isFinished() ? R.string.picture_of : R.string.picture_growing, what.request().prompt())));
    }

    private void showProgress(Drawing drawing) {
        int all = drawing.request().steps();
        progress.setIndeterminate(drawing.phase() != Phase.DENOISE);
        progress.setMax(all);
        progress.setProgress(drawing.done());
        status.setText(phase(drawing.phase()));
        figures.setText(drawing.done() == 0 ? "" : activity.getString(R.string.step_figures, drawing.done(), all,
                Format.milliseconds(drawing.stepMilliseconds())));
    }

    private void showLast(Optional<Drawing> drawing) {
        if (drawing.isPresent() && drawing.get().isFinished()) {
            status.setText(R.string.finished);
            figures.setText(activity.getString(R.string.finished_figures, drawing.get().request().steps(),
                    Format.milliseconds(drawing.get().meanMilliseconds())));
        } else {
            status.setText(drawing.isPresent() ? activity.getString(R.string.stopped) : "");
            figures.setText("");
        }
    }

    private static int phase(Phase phase) {
        switch (phase) {
            case ENCODE:
                return R.string.phase_encode;
            case PREPARE:
                return R.string.phase_prepare;
            case DENOISE:
                return R.string.phase_denoise;
            default:
                return R.string.phase_decode;
        }
    }

    private void generate() {
        Optional<Long> seedNow = Fields.number(seed, Long::valueOf, R.string.seed_problem);
        Optional<Double> guidanceNow = Fields.number(guidance, Double::valueOf, R.string.guidance_problem);
        Optional<Integer> stepsNow = Fields.chosen(steps);
        if (seedNow.isPresent() && guidanceNow.isPresent() && stepsNow.isPresent()) {
            hideKeyboard();
            session.draw(new Request(prompt.getText().toString(), seedNow.get(), stepsNow.get(), guidanceNow.get()));
        }
    }

    private void hideKeyboard() {
        prompt.clearFocus();
        InputMethodManager keyboard =
                (InputMethodManager) activity.getSystemService(Activity.INPUT_METHOD_SERVICE);
        keyboard.hideSoftInputFromWindow(prompt.getWindowToken(), 0);
    }

    private void save() {
        session.state().drawing().filter(Drawing::isFinished).ifPresent(
                now -> saver.toGallery(now.request(), now.picture().get(), new Answer() {
                    @Override
                    public void saved(Uri uri) {
                        tell(activity.getString(R.string.saved));
                    }
                }));
    }

    private void share() {
        session.state().drawing().filter(Drawing::isFinished).ifPresent(
                now -> saver.toShare(now.request(), now.picture().get(), new Answer() {
                    @Override
                    public void saved(Uri uri) {
                        if (activity.isDestroyed()) {
                            return;
                        }
                        Intent send = new Intent(Intent.ACTION_SEND).setType(Saver.TYPE)
                                .putExtra(Intent.EXTRA_STREAM, uri).putExtra(Intent.EXTRA_TEXT, now.request().prompt())
                                .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION);
                        // The grant goes with the clip, not with the extra.
                        send.setClipData(ClipData.newRawUri("", uri));
                        activity.startActivity(Intent.createChooser(send, activity.getString(R.string.share)));
                    }
                }));
    }

    private void tell(String what) {
        Toast.makeText(activity, what, Toast.LENGTH_LONG).show();
    }

    /** Says what went wrong; what went right is said by its maker. */
    private abstract class Answer implements Saver.Answer {
        @Override
        public void failed(String why) {
            tell(activity.getString(R.string.not_saved, why));
        }
    }
}
