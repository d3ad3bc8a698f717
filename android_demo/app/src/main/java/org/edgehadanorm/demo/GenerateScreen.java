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
import java.util.function.BiConsumer;

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
        GenerateContent content = new GenerateContent(state);
        Fields.visible(generate, !content.isDrawing());
        generate.setEnabled(content.canGenerate());
        Fields.visible(cancel, content.isDrawing());
        Fields.show(progress, content.bar());
        Fields.say(status, content.status());
        Fields.say(figures, content.figures());
        Fields.visible(actions, content.finished().isPresent());
        content.description().ifPresent(words -> picture.setContentDescription(Fields.text(activity, words)));
        showPicture(content.picture());
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

    private void showPicture(Optional<Picture> now) {
        Fields.visible(placeholder, !now.isPresent());
        if (!now.equals(shown)) {
            picture.setImageDrawable(
                    now.map(pixels -> Bitmaps.drawable(activity.getResources(), pixels)).orElse(null));
            shown = now;
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
        keep((request, pixels) -> saver.toGallery(request, pixels, new Answer() {
            @Override
            public void saved(Uri uri) {
                tell(activity.getString(R.string.saved));
            }
        }));
    }

    private void share() {
        keep((request, pixels) -> saver.toShare(request, pixels, new Answer() {
            @Override
            public void saved(Uri uri) {
                if (activity.isDestroyed()) {
                    return;
                }
                Intent send = new Intent(Intent.ACTION_SEND).setType(Saver.TYPE)
                        .putExtra(Intent.EXTRA_STREAM, uri).putExtra(Intent.EXTRA_TEXT, request.prompt())
                        .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION);
                // The grant goes with the clip, not with the extra.
                send.setClipData(ClipData.newRawUri("", uri));
                activity.startActivity(Intent.createChooser(send, activity.getString(R.string.share)));
            }
        }));
    }

    private void keep(BiConsumer<Request, Picture> how) {
        new GenerateContent(session.state()).finished().ifPresent(
                now -> now.picture().ifPresent(pixels -> how.accept(now.request(), pixels)));
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
