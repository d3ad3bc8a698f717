package org.edgehadanorm.demo;

import android.app.Activity;
import android.content.ClipData;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.widget.ProgressBar;
import android.widget.TextView;
import android.widget.Toast;
import java.util.Optional;
import java.util.function.BiConsumer;

import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;

/** The form, the picture that grows, and what can be done with it. */
final class GenerateScreen implements Screen {
    private final Activity activity;
    private final Session session;
    private final Saver saver;
    private final PictureView picture;
    private final TextView placeholder;
    private final TextView status;
    private final TextView figures;
    private final ProgressBar progress;
    private final View actions;
    private final Form form;
    private final View generate;
    private final View cancel;
    private Optional<Picture> shown = Optional.empty();

    GenerateScreen(Activity activity, Session session, Saver saver, Picker picker) {
        this.activity = activity;
        this.session = session;
        this.saver = saver;
        picture = (PictureView) activity.findViewById(R.id.picture);
        placeholder = (TextView) activity.findViewById(R.id.placeholder);
        status = (TextView) activity.findViewById(R.id.status);
        figures = (TextView) activity.findViewById(R.id.figures);
        progress = (ProgressBar) activity.findViewById(R.id.progress);
        actions = activity.findViewById(R.id.actions);
        generate = activity.findViewById(R.id.generate);
        cancel = activity.findViewById(R.id.cancel);
        form = new Form(activity, session, picker, this::generate);
        generate.setOnClickListener(view -> generate());
        cancel.setOnClickListener(view -> session.cancel());
        activity.findViewById(R.id.share).setOnClickListener(view -> share());
        View save = activity.findViewById(R.id.save);
        save.setOnClickListener(view -> save());
        Fields.visible(save, Api.canSaveToGallery());
    }

    /** What the views do not remember by themselves. */
    void save(Bundle out) {
        form.save(out);
    }

    /** Keeps what the views remember when their bundle is opened again. */
    void restore(Bundle saved) {
        form.restore(saved);
    }

    @Override
    public void show(State state) {
        state.bundle().ifPresent(bundle -> picture.setProportions(bundle.width(), bundle.height()));
        form.show(state);
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

    private void showPicture(Optional<Picture> now) {
        Fields.visible(placeholder, !now.isPresent());
        if (!now.equals(shown)) {
            picture.setImageDrawable(
                    now.map(pixels -> Bitmaps.drawable(activity.getResources(), pixels)).orElse(null));
            shown = now;
        }
    }

    private void generate() {
        if (generate.isEnabled()) {
            form.request().ifPresent(session::draw);
        }
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
